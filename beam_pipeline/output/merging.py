"""Many rows into few tables: one row per key, sorted for analysis, in bounded memory.

Rows are taken up in runs: as soon as one table's worth is in memory it is sorted by a hash of the uri and
put on local disk. How many tables there will be is known when all rows are there; each is then one range of
the hash, gathered from all runs. So all rows of a key meet in one table, whatever their number, and memory
holds the rows of one table (plus a copy of them while they are sorted), however many rows there are.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.tables import FAILURES, KEY, SCHEMAS, SCORES, TIMES

SORTED_BY = {
    SCORES: {"score": True, "image_uri": False},
    FAILURES: {"image_uri": False},
}
"""Columns that merged rows are sorted by → whether descending; nulls are last."""

_ROW_KEY = (*KEY, "role")
_HASH = "hash_of_uri"
_HASHES = 1 << 32
_GROUPS_PER_RUN = 64


class Runs:
    """Rows of one table of the contract, on their way to be merged.

    Args:
        table: ``scores`` or ``failures``.
        scratch: Local directory for runs; needs about the size of the Parquet files that are merged.
        rows_per_part: Most rows of a run, and about the most of a part.

    Attributes:
        table: As given.
        rows: Taken up so far.
    """

    def __init__(self, table: str, scratch: str, rows_per_part: int) -> None:
        self.table = table
        self.rows = 0
        self._scratch = scratch
        self._rows_per_part = rows_per_part
        self._files: list[str] = []
        self._pending: list[pa.Table] = []
        self._pending_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take up rows (of the contract's schema); of equal ones those that came first are kept."""
        self.rows += len(rows)
        self._pending.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= self._rows_per_part:
            self._spill()

    @property
    def parts(self) -> int:
        """How many tables the rows make; one even of none."""
        return max(-(-self.rows // self._rows_per_part), 1)

    def merged(self) -> Iterator[pa.Table]:
        """Give the parts, one at a time: one row per key, sorted by ``SORTED_BY``."""
        if self._files and self._pending:
            self._spill()
        for part in range(self.parts):
            low, high = (_HASHES * bound // self.parts for bound in (part, part + 1))
            yield latest_rows(self._between(low, high), self.table)

    def _between(self, low: int, high: int) -> pa.Table:
        if not self._files:
            found = self._pending or [SCHEMAS[self.table].empty_table()]
        else:
            wanted = [(_HASH, ">=", low), (_HASH, "<", high)]
            runs = (pq.read_table(file, filters=wanted) for file in self._files)
            found = [run.drop_columns([_HASH]) for run in runs]
        return pa.concat_tables(found).unify_dictionaries()

    def _spill(self) -> None:
        rows = pa.concat_tables(self._pending).unify_dictionaries()
        self._pending, self._pending_rows = [], 0
        hashes = pa.array([zlib.crc32(uri.encode()) for uri in rows["image_uri"].to_pylist()], pa.uint32())
        ordered = rows.append_column(_HASH, hashes).take(pc.sort_indices(hashes))
        path = os.path.join(self._scratch, f"run-{len(self._files)}.parquet")
        group = max(self._rows_per_part // _GROUPS_PER_RUN, 1)
        pq.write_table(ordered, path, compression="zstd", row_group_size=group)
        self._files.append(path)


def latest_rows(rows: pa.Table, table: str) -> pa.Table:
    """Keep one row per key and role: the highest attempt, of those the latest; sort by ``SORTED_BY``.

    Never by ``image_id``: the same photograph under two uris is two rows.
    """
    # Columns that can be compared: without dictionaries, and without nulls where null is a value.
    keys = pa.table(
        {
            "image_uri": rows["image_uri"],
            "image_generation": pc.fill_null(rows["image_generation"], np.iinfo(np.int64).min),
            "adapter_revision": rows["adapter_revision"].cast(pa.string()),
            "role": pc.fill_null(rows["role"].cast(pa.string()), "champion"),
            "attempt": rows["attempt"],
            "time": rows[TIMES[table]],
            **{name: rows[name] for name in SORTED_BY[table]},
        }
    )
    key = [(name, "ascending") for name in _ROW_KEY]
    order = pc.sort_indices(keys, sort_keys=[*key, ("attempt", "descending"), ("time", "descending")])
    kept = order.filter(_begins(keys.take(order)))
    wanted = {
        **{name: "descending" if down else "ascending" for name, down in SORTED_BY[table].items()},
        **dict(key),
    }
    final = pc.sort_indices(keys.take(kept), sort_keys=[*wanted.items()])
    return rows.take(kept.take(final))


def _begins(ordered: pa.Table) -> pa.Array:
    """Row by row: whether another key begins."""
    begins = np.ones(len(ordered), bool)
    if len(ordered):
        begins[1:] = False
        for name in _ROW_KEY:
            column = ordered[name]
            begins[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy()
    return pa.array(begins)
