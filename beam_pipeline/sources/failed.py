"""What an output has failures for and no score: what ``--retry-failed`` scores again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from beam_pipeline.options import RETRIES
from beam_pipeline.output.parquet import batches_of
from beam_pipeline.sources.inputs import describe
from schemas.records import ImageRef

_OF_REF = ("image_uri", "image_generation", "event_time", "context", "passthrough_json", "attempt")
_COLUMNS = (*_OF_REF, "stage", "retryable", "adapter_revision", "failed_at", "role")


@dataclass(frozen=True, slots=True)
class FailedRef:
    """A row of ``failures/``, as far as a retry needs it.

    Attributes:
        ref: As it was tried.
        stage: Where it failed.
        retryable: Whether the failure may pass by itself.
        failed_at: When.
    """

    ref: ImageRef
    stage: str
    retryable: bool
    failed_at: datetime


def failed_refs(file: str, revision: str) -> Iterator[FailedRef]:
    """Read what one file of ``failures/`` holds for one champion.

    A message that made no sense (stage ``ingest``) names no image: it cannot be tried again.
    """
    for batch in batches_of(file, _COLUMNS):
        for row in batch.to_pylist():
            # Files of earlier versions have no roles: there were champions only.
            champion = row.get("role") in (None, "champion")
            if champion and row["adapter_revision"] == revision and row["stage"] in RETRIES:
                yield _failed_ref(row)


def _failed_ref(row: dict[str, Any]) -> FailedRef:
    ref = ImageRef(**{name: row[name] for name in _OF_REF})
    return FailedRef(ref, row["stage"], row["retryable"], row["failed_at"])


def ref_to_retry(
    failed: Iterable[FailedRef], scored: Iterable[int], which: Sequence[str], started_at: datetime
) -> ImageRef | None:
    """Decide whether an image is tried again, and as what.

    Per version its last failure counts, unless that version has a score; an image that could not even be
    listed has no version, and is settled by a score of any. What is tried is the image as it is now: where it
    was replaced, its present version, with the present version's time, unless that one has a score.

    Args:
        failed: All failures of one uri.
        scored: The versions of that uri that have a score (-1 = unversioned).
        which: Some of ``RETRIES``.
        started_at: The event time of an image that has none.

    Returns:
        The described ref, its attempt higher than all before; None where there is nothing to do.
    """
    settled = set(scored)
    last: dict[int, FailedRef] = {}
    for row in sorted(failed, key=lambda row: (row.ref.attempt, row.failed_at)):
        last[row.ref.key[1]] = row
    open_ones = [
        (version, row.ref)
        for version, row in last.items()
        if not (version in settled or (row.ref.image_generation is None and settled))
        and _is_wanted(row, which)
    ]
    if not open_ones:
        return None
    _, newest = max(open_ones, key=lambda versioned: versioned[0])
    attempt = 1 + max(row.ref.attempt for row in last.values())
    present = _as_it_is_now(replace(newest, attempt=attempt), started_at)
    return None if present.key[1] in settled else present


def _is_wanted(row: FailedRef, which: Sequence[str]) -> bool:
    return "all" in which or row.stage in which or ("retryable" in which and row.retryable)


def _as_it_is_now(ref: ImageRef, started_at: datetime) -> ImageRef:
    present = describe(replace(ref, image_generation=None, event_time=None), started_at)
    if present.problem is not None:
        # Gone, say: the new failure takes the place of the old one.
        return replace(ref, problem=present.problem)
    if present.image_generation == ref.image_generation:
        return replace(present, event_time=ref.event_time)
    return present
