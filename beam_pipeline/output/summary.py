"""What a run came to, read back from its Parquet: works for jobs that ran anywhere.

One outcome is counted per key, as the published view does; about 60 bytes of memory a row, and
some 30 more where images failed.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_pipeline.output.outcome_rows import OutcomeRows, read_rows
from beam_pipeline.stores.storage import join, put_file
from schemas.tables import FAILURES, SCORES

SUMMARY_NAME = "_summary.json"
"""Beside the tables; readers of Parquet directories skip names with a leading underscore."""

LOW_FORMAT_MASS = 0.5
"""A median below this says that the adapter was hardly trained on the template in use."""

_BINS = 10
_BAR = 40


@dataclass(frozen=True)
class FailureCount:
    """Images that failed for one reason."""

    stage: str
    error_type: str
    retryable: bool
    images: int


@dataclass(frozen=True)
class Summary:
    """What a run, or a whole output, came to.

    Attributes:
        output: The directory.
        run_id: The run; None = all runs of the output.
        scored: Images with a score row, each key once.
        failed: Images that have only a failure.
        skipped: Images that ``--skip-scored`` left out; None = not known.
        failures: Failed images by reason, most first.
        score_histogram: Images by score, ten bins of [0, 10).
        score_median: None without scores.
        without_score: Scored images whose template has no score slot.
        format_mass_median: See the column; None without scores.
        adapters: Name and revision of those that scored.
        synthetic: One of them learnt from synthetic labels; None = not known.
        seconds: From the first to the last outcome.
        images_per_s: Outcomes a second in that time; those of the very first moment, whose work lies
            before it, do not count. None where it is no time.
        score_files: Files of ``scores/`` with these rows.
        failure_files: The same of ``failures/``.
    """

    output: str
    run_id: str | None
    scored: int
    failed: int
    failures: tuple[FailureCount, ...]
    score_histogram: tuple[int, ...]
    score_median: float | None
    without_score: int
    format_mass_median: float | None
    adapters: tuple[tuple[str, str], ...]
    seconds: float
    images_per_s: float | None
    score_files: int
    failure_files: int
    skipped: int | None = None
    synthetic: bool | None = None

    def to_json(self) -> str:
        """As one JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"


def summarise(output: str, run_id: str | None = None) -> Summary:
    """Read an output and count.

    Args:
        output: Directory of a job, local or remote.
        run_id: Count this run's rows only; None = all runs.
    """
    scores, failures = read_rows(output, SCORES, run_id), read_rows(output, FAILURES, run_id)
    scored = scores.latest()
    failed = _unsettled(failures.latest(), scored)
    times = np.concatenate([scored["time_us"], failed["time_us"]])
    seconds = float(times.max() - times.min()) / 1e6 if len(times) else 0.0
    known = scored["score"][~np.isnan(scored["score"])]
    histogram, _ = np.histogram(known, bins=_BINS, range=(0, 10))
    return Summary(
        output=output,
        run_id=run_id,
        scored=len(scored),
        failed=len(failed),
        failures=_by_reason(failed, failures),
        score_histogram=tuple(int(count) for count in histogram),
        score_median=_median(known),
        without_score=len(scored) - len(known),
        format_mass_median=_median(scored["format_mass"]),
        adapters=tuple(sorted((str(name), str(revision)) for name, revision in scores.labels)),
        seconds=seconds,
        images_per_s=np.count_nonzero(times > times.min()) / seconds if seconds else None,
        score_files=scores.files,
        failure_files=failures.files,
    )


def write_summary(summary: Summary) -> str:
    """Write it beside the tables, as JSON; give the file's name."""
    path = join(summary.output, SUMMARY_NAME)
    put_file(path, summary.to_json().encode())
    return path


def summary_text(summary: Summary) -> str:
    """Say it to a person."""
    lines = [f"{summary.scored:,} images scored, {summary.failed:,} failed"]
    if summary.skipped:
        lines[0] += f", {summary.skipped:,} skipped (scored before)"
    if summary.images_per_s is not None:
        lines[0] += f"; {summary.images_per_s:,.1f} images/s"
    for adapter, revision in summary.adapters:
        lines.append(f"adapter {adapter} {revision[:12]}")
    if summary.synthetic:
        lines.append(
            "The adapter learnt from synthetic degradations: its scores are not human opinion or taste."
        )
    lines += _failure_lines(summary) + _score_lines(summary)
    for table, files in ((SCORES, summary.score_files), (FAILURES, summary.failure_files)):
        if files:
            lines.append(f"{files:,} {'files' if files > 1 else 'file'} in {join(summary.output, table)}")
    return "\n".join(lines)


def _unsettled(failed: NDArray[Any], scored: NDArray[Any]) -> NDArray[Any]:
    # A failure that was scored, too, is no failure. One without a version (its image could not even be
    # listed) is settled by a score of any version.
    later = _are_among(failed["key"], scored["key"])
    any_version = failed["unversioned"] & _are_among(failed["image"], scored["image"])
    return failed[~(later | any_version)]


def _are_among(few: NDArray[np.int64], many: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``np.isin`` without sorting, or hashing, the many."""
    if not len(few):
        return np.zeros(0, bool)
    ordered = np.sort(few)
    places = np.minimum(np.searchsorted(ordered, many), len(ordered) - 1)
    return np.isin(few, many[ordered[places] == many])


def _by_reason(failed: NDArray[Any], table: OutcomeRows) -> tuple[FailureCount, ...]:
    counts = Counter(failed["label"].tolist())
    reasons = [(*table.labels[label], images) for label, images in counts.most_common()]
    return tuple(FailureCount(*reason) for reason in reasons)


def _median(values: NDArray[Any]) -> float | None:
    values = values[~np.isnan(values)]
    return round(float(np.median(values)), 6) if len(values) else None


def _failure_lines(summary: Summary) -> list[str]:
    lines = ["", "failures by reason:"] if summary.failures else []
    for count in summary.failures:
        again = "  (may succeed if tried again)" if count.retryable else ""
        lines.append(f"  {count.images:>9,}  {count.stage:<6}  {count.error_type}{again}")
    return lines


def _score_lines(summary: Summary) -> list[str]:
    lines = [""]
    if summary.score_median is not None:
        lines.append(f"scores (0 to 10, higher is better; median {summary.score_median:.2f}):")
        most = max(summary.score_histogram)
        for low, count in enumerate(summary.score_histogram):
            bar = "█" * -(-count * _BAR // most)
            lines.append(f"  {low}–{low + 1:<2}  {count:>9,}  {bar}".rstrip())
    if summary.without_score:
        lines.append(
            f"{summary.without_score:,} images have attributes but no score (the template asks for none)"
        )
    mass = summary.format_mass_median
    if mass is not None:
        low = mass < LOW_FORMAT_MASS
        warning = (
            " LOW: the adapter hardly writes this template by itself; do not trust its rows" if low else ""
        )
        lines.append(f"median format mass {mass:.3f}{warning}")
    return [*lines, ""]
