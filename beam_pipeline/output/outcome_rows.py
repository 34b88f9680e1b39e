"""A champion's rows of an output in a few bytes each: what counting one outcome per key needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_pipeline.output.categories import codes_of, is_one_of
from beam_pipeline.output.parquet import batches_of
from beam_pipeline.output.sink import is_chunk_file
from beam_pipeline.stores.ahead import map_ahead
from beam_pipeline.stores.storage import is_remote, join, list_files
from schemas.tables import KEY, SCORES, TIMES

_TRIES = 5
_CHUNKS_AHEAD = 16
_LARGE_FILES_AHEAD = 2
"""Of a store's. Each large one takes tens of megabytes while it is read, and its time is not the store's."""

ROW = np.dtype(
    [
        ("key", np.int64),  # hash of the key
        ("image", np.int64),  # hash of the key less its generation
        ("unversioned", np.bool_),
        ("attempt", np.int16),
        ("time_us", np.int64),
        ("score", np.float32),  # NaN for failures, and for templates without a score
        ("format_mass", np.float32),
        ("label", np.int32),  # index into OutcomeRows.labels
    ]
)


@dataclass
class OutcomeRows:
    """Rows of one table.

    Attributes:
        rows: Dtype ``ROW``.
        labels: What a row's ``label`` means: (adapter, revision) of scores; (stage, error type,
            retryable) of failures.
        files: Files with at least one of the rows.
    """

    rows: NDArray[Any] = field(default_factory=lambda: np.empty(0, ROW))
    labels: list[tuple[Any, ...]] = field(default_factory=list)
    files: int = 0

    def latest(self) -> NDArray[Any]:
        """One row per key: the highest attempt, of those the latest."""
        order = np.lexsort((self.rows["time_us"], self.rows["attempt"], self.rows["key"]))
        keys = self.rows["key"][order]
        last = np.ones(len(keys), bool)
        last[:-1] = keys[1:] != keys[:-1]
        # Of most outputs that is all of them, and a copy may be gigabytes.
        return self.rows if last.all() else self.rows[order[last]]


def read_rows(output: str, table: str, run_id: str | None) -> OutcomeRows:
    """Read one table of an output, a batch at a time; rows of challengers are left out.

    Args:
        output: Directory of a job, local or remote.
        table: ``scores`` or ``failures``.
        run_id: Only the rows of this run; None = all.

    Raises:
        OSError: The storage refuses, or files were removed again and again while they were read.
    """
    for _ in range(_TRIES - 1):
        # ``compact`` took a listed file away: its rows are in another one, which the next listing shows.
        with suppress(FileNotFoundError):
            return _read_rows(output, table, run_id)
    return _read_rows(output, table, run_id)


def _read_rows(output: str, table: str, run_id: str | None) -> OutcomeRows:
    read = partial(_rows_of_file, table=table, run_id=run_id)
    files = list_files(join(output, table), ".parquet")
    if not is_remote(output):
        return _together(map(read, files))
    small = [file for file in files if is_chunk_file(file)]
    large = [file for file in files if not is_chunk_file(file)]
    return _together(chain(map_ahead(read, small, _CHUNKS_AHEAD), map_ahead(read, large, _LARGE_FILES_AHEAD)))


def _together(files: Iterable[OutcomeRows]) -> OutcomeRows:
    parts: deque[NDArray[Any]] = deque()
    labels: dict[tuple[Any, ...], int] = {}
    for file in files:
        if file.files:
            indices = np.array([labels.setdefault(label, len(labels)) for label in file.labels])
            file.rows["label"] = indices[file.rows["label"]]
            parts.append(file.rows)
    count = len(parts)
    return OutcomeRows(_joined(parts), list(labels), count)


def _joined(parts: deque[NDArray[Any]]) -> NDArray[Any]:
    """``np.concatenate``, but nothing is held twice: takes the parts away."""
    rows = np.empty(sum(map(len, parts)), ROW)
    end = 0
    while parts:
        part = parts.popleft()
        rows[end : end + len(part)] = part
        end += len(part)
    return rows


def _rows_of_file(file: str, table: str, run_id: str | None) -> OutcomeRows:
    labels: dict[tuple[Any, ...], int] = {}
    rows = _joined(deque(_batches(file, table, run_id, labels)))
    return OutcomeRows(rows, list(labels), int(len(rows) > 0))


def _batches(
    file: str, table: str, run_id: str | None, labels: dict[tuple[Any, ...], int]
) -> Iterator[NDArray[Any]]:
    if table == SCORES:
        label_columns, numbers = ["adapter", "adapter_revision"], ["score", "format_mass"]
    else:
        label_columns, numbers = ["stage", "error_type", "retryable"], []
    time = TIMES[table]
    columns = list(dict.fromkeys([*KEY, "role", "attempt", time, "run_id", *label_columns, *numbers]))
    for batch in batches_of(file, columns):
        counts = _counts(batch, run_id)
        counted = batch if counts.all() else batch.filter(pa.array(counts))
        rows = _packed(counted, time, numbers)
        rows["label"] = _label_indices([counted.column(name) for name in label_columns], labels)
        yield rows


def _counts(batch: pa.RecordBatch, run_id: str | None) -> NDArray[np.bool_]:
    """Row by row: the champion's (failures of earlier versions name no role), and of the run asked for."""
    counts = np.ones(len(batch), bool)
    if "role" in batch.schema.names:
        counts &= is_one_of(batch.column("role"), (None, "champion"))
    if run_id is not None:
        counts &= is_one_of(batch.column("run_id"), (run_id,))
    return counts


def _packed(batch: pa.RecordBatch, time: str, numbers: list[str]) -> NDArray[Any]:
    uris, generations, revisions = (batch.column(name) for name in KEY)
    named, revision_codes = codes_of(revisions)
    of_row = (named[code] for code in revision_codes)
    images = list(zip(uris.to_numpy(zero_copy_only=False), of_row, strict=True))
    rows = np.empty(len(batch), ROW)
    # Python's own 64-bit hash: these numbers never leave the process.
    rows["image"] = [hash(image) for image in images]
    rows["key"] = [hash(key) for key in zip(images, generations.to_pylist(), strict=True)]
    rows["unversioned"] = generations.is_null().to_numpy(zero_copy_only=False)
    rows["attempt"] = batch.column("attempt").to_numpy()
    rows["time_us"] = batch.column(time).view(pa.int64()).to_numpy()
    rows["score"] = rows["format_mass"] = np.nan
    for name in numbers:
        rows[name] = batch.column(name).to_numpy(zero_copy_only=False)
    return rows


def _label_indices(
    columns: Sequence[pa.Array], labels: dict[tuple[Any, ...], int]
) -> NDArray[np.integer[Any]]:
    """Row by row, which label the columns' values together are; new ones are added."""
    values, codes = zip(*(codes_of(column) for column in columns), strict=True)
    sizes = [len(value) for value in values]
    found, of_row = np.unique(np.ravel_multi_index(codes, sizes), return_inverse=True)
    combinations = zip(*np.unravel_index(found, sizes), strict=True)
    indices = [
        labels.setdefault(tuple(value[code] for value, code in zip(values, each, strict=True)), len(labels))
        for each in combinations
    ]
    return np.array(indices, int)[of_row]
