"""Writing a scored chunk: one Parquet file per table, UTC day and adapter, replaced as a whole on a retry.

A file is named from the sorted keys of *all* refs of its chunk and day, the adapter revision and its role,
never from values or times, and the same in both tables. So a chunk that is scored again replaces its rows
wherever they were, also where an image moves from failed to scored; and a challenger, also one that becomes
the champion later, never replaces a champion's rows or loses its own to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from beam_pipeline.output.parquet import encode
from beam_pipeline.stores.storage import join, put_file, remove_file
from schemas.records import (
    ImageRef,
    ImageScore,
    Outcome,
    Role,
    ScoredChunk,
    ScoringFailure,
    column_getters,
)
from schemas.tables import FAILURES, SCHEMAS, SCORES

_PREFIX = "chunk-"
_GETTERS = {SCORES: column_getters(ImageScore), FAILURES: column_getters(ScoringFailure)}


def write_chunk(chunk: ScoredChunk, output: str) -> list[str]:
    """Write a chunk's rows below ``output``.

    Returns:
        The files written. A table without rows of an adapter gets no file, and loses the one of an earlier
        attempt.
    """
    written = []
    for day, outcomes in sorted(by_day([*chunk.outcomes, *chunk.challenger_outcomes]).items()):
        refs = [outcome.ref for outcome in outcomes]
        for (revision, role), rows in sorted(by_adapter(outcomes).items()):
            written += _write_rows(rows, output, day, file_name(refs, revision, role))
    return written


def _write_rows(outcomes: Sequence[Outcome], output: str, day: str, name: str) -> list[str]:
    rows: dict[str, list[Outcome]] = {
        FAILURES: [outcome for outcome in outcomes if isinstance(outcome, ScoringFailure)],
        SCORES: [outcome for outcome in outcomes if isinstance(outcome, ImageScore)],
    }
    places = {table: join(output, table, f"date={day}", name) for table in rows}
    written = []
    # First what is new, then away with what is old: a crash in between leaves an image in both
    # tables, which the published view reads as scored, never in neither.
    for table, found in rows.items():
        if found:
            put_file(places[table], to_parquet(found, table))
            written.append(places[table])
    for table, found in rows.items():
        if not found:
            remove_file(places[table])
    return written


def by_day(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by the UTC day of their event time, as ``YYYY-MM-DD``.

    Raises:
        ValueError: A ref has no event time; describing it gives one.
    """
    days: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        day = _event_time(outcome.ref).astimezone(UTC).date().isoformat()
        days.setdefault(day, []).append(outcome)
    return days


def by_adapter(outcomes: Iterable[Outcome]) -> dict[tuple[str, Role], list[Outcome]]:
    """Group outcomes by adapter revision and role."""
    groups: dict[tuple[str, Role], list[Outcome]] = {}
    for outcome in outcomes:
        if isinstance(outcome, ImageScore):
            who = (outcome.provenance.adapter_revision, outcome.provenance.role)
        else:
            who = (outcome.adapter_revision, outcome.role)
        groups.setdefault(who, []).append(outcome)
    return groups


def file_name(refs: Iterable[ImageRef], revision: str, role: Role = "champion") -> str:
    """Name the file of these refs and this adapter: a pure function of the set of their keys."""
    digest = hashlib.sha256(json.dumps(revision).encode())
    for uri, generation in sorted({ref.key for ref in refs}):
        # What ``json.dumps`` makes of the pair, in a fifth of the time: names must stay as they are.
        digest.update(f"[{json.dumps(uri)}, {generation}]".encode())
    if role != "champion":
        digest.update(role.encode())
    return f"{_PREFIX}{digest.hexdigest()[:32]}.parquet"


def is_chunk_file(file: str) -> bool:
    """Whether a file holds one chunk's rows, by its name; others may be large."""
    return file.rsplit("/", 1)[-1].startswith(_PREFIX)


def to_parquet(outcomes: Sequence[Outcome], table: str) -> bytes:
    """Encode rows of one table (``scores`` or ``failures``) as one Parquet file, sorted by ``image_uri``."""
    rows = sorted(outcomes, key=lambda outcome: outcome.ref.image_uri)
    schema, getters = SCHEMAS[table], _GETTERS[table]
    # Column by column: a dictionary for every row would cost more than all the rest.
    columns = [pa.array(list(map(getters[field.name], rows)), type=field.type) for field in schema]
    return encode(pa.Table.from_arrays(columns, schema=schema), {"image_uri": False})


def _event_time(ref: ImageRef) -> datetime:
    if ref.event_time is None:
        raise ValueError(f"{ref.image_uri} has no event time")
    return ref.event_time
