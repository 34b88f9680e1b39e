"""Files of an output that are read whole, ahead of who uses them, as rows of the present contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.stores.ahead import map_ahead
from beam_pipeline.stores.file_versions import version_of
from beam_pipeline.stores.storage import open_binary
from schemas.errors import ConfigurationError
from schemas.tables import SCHEMAS

_BATCH_ROWS = 128 * 1024


@dataclass(frozen=True)
class SourceFile:
    """A file as it was read.

    Attributes:
        uri: Where it is.
        name: Its last part.
        version: Looked at before reading, so it is never newer than the data.
        data: Its bytes.
    """

    uri: str
    name: str
    version: str
    data: bytes


def read_ahead(uris: Sequence[str], ahead: int) -> Iterator[SourceFile]:
    """Read files in order, so many at a time; those that vanish meanwhile are left out.

    Raises:
        OSError: The storage refused.
    """
    return (source for source in map_ahead(_read, uris, ahead) if source is not None)


def rows_of(source: SourceFile, table: str) -> Iterator[pa.Table]:
    """Read rows in the contract's present form, a batch at a time.

    Raises:
        ConfigurationError: It is no file of this table, or one of a later version.
    """
    try:
        parquet = pq.ParquetFile(pa.BufferReader(source.data))
        # Threads start more slowly than they read a chunk's file.
        for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=parquet.num_row_groups > 1):
            yield _conformed(pa.Table.from_batches([batch]), SCHEMAS[table])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{source.uri}: not a file of {table}/: {error}") from error


def _read(uri: str) -> SourceFile | None:
    version = version_of(uri)
    if version is None:
        return None
    try:
        with open_binary(uri) as file:
            return SourceFile(uri, uri.rsplit("/", 1)[1], version, file.read())
    except OSError:
        # A job that scores its images again removes the file of a table without rows.
        if version_of(uri) is None:
            return None
        raise


def _conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the columns that an earlier version did not write.

    Raises:
        ValueError: A later version wrote columns that would be lost.
        KeyError: A column that every row has is missing.
    """
    if rows.schema.equals(schema, check_metadata=True):
        return rows
    unknown = set(rows.column_names) - set(schema.names)
    if unknown:
        raise ValueError(f"columns of another version: {', '.join(sorted(unknown))}")
    for field in schema:
        if field.nullable and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(schema.names).cast(schema)
