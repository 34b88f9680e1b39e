"""How our Parquet files are written and read, small ones and large ones."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.stores.storage import is_remote, open_binary

_BLOOM_FALSE_POSITIVES = 0.01


def encode(
    table: pa.Table,
    sorted_by: Mapping[str, bool],
    *,
    row_group_rows: int | None = None,
    looked_up_by: Sequence[str] = (),
) -> bytes:
    """Encode rows as one Parquet file.

    Args:
        table: Rows, in the order that ``sorted_by`` tells.
        sorted_by: Columns that they are sorted by → whether descending; nulls are last.
        row_group_rows: Most rows of a row group; None = all in one.
        looked_up_by: Columns that get a bloom filter, where this pyarrow can write one (25 can, 18 not).
    """
    schema = table.schema
    # Arrow's own: a file object of Python's would be called for every page.
    written = pa.BufferOutputStream()
    pq.write_table(
        table,
        written,
        compression="zstd",
        # Floats and long texts do not repeat: a dictionary would only cost.
        use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
        row_group_size=row_group_rows,
        write_page_index=True,
        sorting_columns=[
            pq.SortingColumn(schema.get_field_index(name), descending=descending, nulls_first=False)
            for name, descending in sorted_by.items()
        ],
        **_bloom_filters(looked_up_by, min(row_group_rows or len(table), len(table))),
    )
    return written.getvalue().to_pybytes()


def batches_of(file: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read those of the columns that a file has, some 65,000 rows at a time at most.

    Raises:
        OSError: It cannot be read, or is gone.
    """
    # Reading ahead is for stores that are far away, and threads are for large files: to start either takes
    # as long as it takes to read a chunk's rows.
    with open_binary(file) as source, pq.ParquetFile(source, pre_buffer=is_remote(file)) as parquet:
        yield from parquet.iter_batches(columns=list(columns), use_threads=parquet.num_row_groups > 1)


def _bloom_filters(columns: Sequence[str], rows: int) -> dict[str, Any]:
    if not columns or not rows or "bloom_filter_options" not in inspect.signature(pq.write_table).parameters:
        return {}
    return {"bloom_filter_options": {name: {"ndv": rows, "fpp": _BLOOM_FALSE_POSITIVES} for name in columns}}
