"""A champion's rows of an output in a few bytes each: what counting one outcome per key needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beam_pipeline.stores.storage import join, list_files, open_binary
from schemas.tables import KEY, SCORES, TIMES

_TRIES = 5

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
        rows = self.rows[np.lexsort((self.rows["time_us"], self.rows["attempt"], self.rows["key"]))]
        last = np.ones(len(rows), bool)
        last[:-1] = rows["key"][1:] != rows["key"][:-1]
        return rows[last]


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
    parts: list[NDArray[Any]] = []
    labels: dict[tuple[Any, ...], int] = {}
    files = 0
    for file in list_files(join(output, table), ".parquet"):
        found = [rows for rows in _file_rows(file, table, run_id, labels) if len(rows)]
        parts += found
        files += bool(found)
    return OutcomeRows(np.concatenate(parts) if parts else np.empty(0, ROW), list(labels), files)


def _file_rows(
    file: str, table: str, run_id: str | None, labels: dict[tuple[Any, ...], int]
) -> Iterator[NDArray[Any]]:
    if table == SCORES:
        label_columns, numbers = ["adapter", "adapter_revision"], ["score", "format_mass"]
    else:
        label_columns, numbers = ["stage", "error_type", "retryable"], []
    time = TIMES[table]
    columns = list(dict.fromkeys([*KEY, "role", "attempt", time, "run_id", *label_columns, *numbers]))
    with open_binary(file) as source:
        for batch in pq.ParquetFile(source).iter_batches(columns=columns):
            counted = batch.filter(pa.array(_counts(batch, run_id), pa.bool_()))
            columns_of = dict(zip(counted.schema.names, counted.columns, strict=True))
            rows = _packed(columns_of, time, numbers)
            rows["label"] = _label_indices([columns_of[name] for name in label_columns], labels)
            yield rows


def _counts(batch: pa.RecordBatch, run_id: str | None) -> list[bool]:
    """Row by row: the champion's (failures of earlier versions name no role), and of the run asked for."""
    roles = batch.column("role").to_pylist() if "role" in batch.schema.names else [None] * len(batch)
    runs = batch.column("run_id").to_pylist()
    return [
        role in (None, "champion") and run_id in (None, run) for role, run in zip(roles, runs, strict=True)
    ]


def _packed(columns: dict[str, pa.Array], time: str, numbers: list[str]) -> NDArray[Any]:
    uris, generations, revisions = (columns[name].to_pylist() for name in KEY)
    rows = np.empty(len(uris), ROW)
    # Python's own 64-bit hash: these numbers never leave the process.
    rows["key"] = [hash(key) for key in zip(uris, generations, revisions, strict=True)]
    rows["image"] = [hash(key) for key in zip(uris, revisions, strict=True)]
    rows["unversioned"] = [generation is None for generation in generations]
    rows["attempt"] = columns["attempt"].to_numpy()
    rows["time_us"] = columns[time].cast(pa.int64()).to_numpy()
    rows["score"] = rows["format_mass"] = np.nan
    for name in numbers:
        rows[name] = columns[name].to_numpy(zero_copy_only=False)
    return rows


def _label_indices(columns: list[pa.Array], labels: dict[tuple[Any, ...], int]) -> list[int]:
    values = zip(*(column.to_pylist() for column in columns), strict=True)
    return [labels.setdefault(label, len(labels)) for label in values]
