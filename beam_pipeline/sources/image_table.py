"""The table of images given with ``--manifest``: CSV, JSON lines or Parquet, to refs. Pure functions.

``image_uri`` is required; ``context`` and ``event_time`` are ours where present; every other column is
carried through as one JSON object. A uri is never a pattern.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.stores.storage import open_binary
from schemas.errors import ConfigurationError
from schemas.records import ImageRef

_OURS = ("image_uri", "context", "event_time")
_MOST_REASONS = 20


class RowError(ValueError):
    """One row of the table cannot be used; says why, without naming the row."""


def read_table(uri: str) -> Iterator[ImageRef]:
    """Read the table.

    Yields:
        One ref for every row, in order.

    Raises:
        ConfigurationError: It cannot be read, lacks ``image_uri``, or has a row that makes no sense.
    """
    for number, row in _numbered_rows(uri):
        try:
            yield ref_of(row)
        except RowError as error:
            raise ConfigurationError(f"--manifest {uri}: row {number}: {error}") from error


def table_problems(uri: str) -> list[str]:
    """Read the whole table and say everything that is wrong with it, at most ``_MOST_REASONS`` rows."""
    problems: list[str] = []
    first_row: dict[int, int] = {}
    try:
        for number, row in _numbered_rows(uri):
            if len(problems) >= _MOST_REASONS:
                return [*problems, f"--manifest {uri}: there may be more; only {_MOST_REASONS} are listed"]
            try:
                image_uri = ref_of(row).image_uri
            except RowError as error:
                problems.append(f"--manifest {uri}: row {number}: {error}")
                continue
            # Hashes instead of uris: tables may have millions of rows.
            earlier = first_row.setdefault(hash(image_uri), number)
            if earlier != number:
                problems.append(f"--manifest {uri}: row {number}: {image_uri} is in row {earlier} already")
    except ConfigurationError as error:
        problems += error.reasons
    if not problems and not first_row:
        problems.append(f"--manifest {uri}: the table has no rows")
    return problems


def ref_of(row: Mapping[str, Any]) -> ImageRef:
    """Make a ref of one row.

    Raises:
        RowError: The row makes no sense.
    """
    image_uri = row.get("image_uri")
    if not isinstance(image_uri, str) or not image_uri:
        raise RowError("image_uri is empty")
    context = row.get("context")
    if context is not None and not isinstance(context, str):
        raise RowError(f"context must be text, not {context!r}")
    others = {name: value for name, value in row.items() if name not in _OURS}
    ref = ImageRef(
        image_uri=image_uri,
        event_time=_time(row.get("event_time")),
        context=context or None,
        passthrough_json=json.dumps(others, ensure_ascii=False, default=_plain) if others else None,
    )
    for text in (ref.image_uri, ref.context, ref.passthrough_json):
        _check_text(text)
    return ref


def _check_text(text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise RowError(f"text is not valid Unicode (lone surrogate at character {error.start})") from error


def _time(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise RowError(f"event_time {value!r} is no ISO 8601 time") from error
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise RowError(f"event_time {value!r} is no time (give ISO 8601 text or a timestamp)")
    # A time without a zone is read as UTC: the one zone of all tables here.
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def _numbered_rows(uri: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers as a person counts them: of a text file its lines, of Parquet from 1."""
    suffix = uri.rsplit(".", 1)[-1].lower()
    readers: dict[str, Callable[[BinaryIO], Iterator[tuple[int, Mapping[str, Any]]]]] = {
        "csv": _csv_rows,
        "jsonl": _json_rows,
        "ndjson": _json_rows,
        "parquet": _parquet_rows,
    }
    if suffix not in readers:
        raise ConfigurationError(f"--manifest {uri}: must end in .csv, .jsonl or .parquet")
    try:
        with open_binary(uri) as file:
            yield from readers[suffix](file)
    except OSError as error:
        raise ConfigurationError(f"--manifest {uri}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error, pa.ArrowInvalid, RowError) as error:
        raise ConfigurationError(f"--manifest {uri}: {error}") from error


def _csv_rows(file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # utf-8-sig: spreadsheets put a byte-order mark before the first column's name.
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, strict=True)
        _check_columns(reader.fieldnames or [])
        for row in reader:
            if None in row or None in row.values():
                raise RowError(f"line {reader.line_num} does not have {len(reader.fieldnames or [])} cells")
            yield reader.line_num, row


def _json_rows(file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with io.TextIOWrapper(file, encoding="utf-8") as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise RowError(f"line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise RowError(f"line {number} is no JSON object")
            yield number, row


def _parquet_rows(file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    table = pq.ParquetFile(file)
    _check_columns(table.schema_arrow.names)
    number = 0
    for batch in table.iter_batches(batch_size=4096):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _check_columns(names: Any) -> None:
    if "image_uri" not in names:
        raise RowError(f"there is no column image_uri (columns: {', '.join(names) or 'none'})")
