"""Progress for a person at a terminal: what this process has done so far.

Counts are process-local, so they tell of jobs whose workers live in the submitting process. Other
runners have their own pages; ``python -m beam_pipeline summary`` tells the result of any job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Self, TextIO


@dataclass(frozen=True)
class Counts:
    """A moment of a run.

    Attributes:
        done: Images with an outcome.
        failed: Those of them that failed.
        skipped: Images left out by ``--skip-scored``.
        total: Images to do, once known.
        scoring_s: Seconds since the number of images was known, or the first outcome; 0 before.
    """

    done: int = 0
    failed: int = 0
    skipped: int = 0
    total: int | None = None
    scoring_s: float = 0.0


class Tally:
    """Counts outcomes; thread-safe."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._done = self._failed = self._skipped = 0
        self._total: int | None = None
        self._first: float | None = None

    def add(self, *, failed: bool) -> None:
        """Count one outcome."""
        with self._lock:
            if self._first is None:
                self._first = self._clock()
            self._done += 1
            self._failed += failed

    def skip(self) -> None:
        """Count one image left out."""
        with self._lock:
            self._skipped += 1

    def expect(self, total: int) -> None:
        """Say how many images there are."""
        with self._lock:
            self._total = total
            self._first = self._clock()

    def counts(self) -> Counts:
        """Give the counts of this moment."""
        with self._lock:
            seconds = 0.0 if self._first is None else self._clock() - self._first
            return Counts(self._done, self._failed, self._skipped, self._total, seconds)


_TALLIES: dict[str, Tally] = {}
_TALLIES_LOCK = threading.Lock()


def tally_of(run_id: str) -> Tally:
    """The tally of a run in this process; made at the first call."""
    with _TALLIES_LOCK:
        return _TALLIES.setdefault(run_id, Tally())


def progress_line(counts: Counts) -> str:
    """Say where a run is, in one line."""
    if not counts.done:
        return "finding images" if counts.total is None else f"0 of {counts.total:,} images"
    of = f" of {counts.total:,}" if counts.total is not None else ""
    parts = [f"{counts.done:,}{of} images", f"{counts.failed:,} failed"]
    if counts.scoring_s > 0:
        rate = counts.done / counts.scoring_s
        parts.insert(1, f"{rate:,.1f} images/s")
        if counts.total is not None and counts.total > counts.done:
            parts.append(f"{duration((counts.total - counts.done) / rate)} left")
    if counts.skipped:
        parts.append(f"{counts.skipped:,} skipped")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressPrinter:
    """Prints progress while a ``with`` block runs: one line rewritten on a terminal, else plain lines.

    Args:
        tally: What to tell of.
        stream: Where to.
        interval_s: Time between lines; None = what suits the stream.
    """

    def __init__(self, tally: Tally, stream: TextIO, interval_s: float | None = None) -> None:
        self._tally = tally
        self._stream = stream
        self._rewrites = stream.isatty()
        self._interval_s = interval_s or (0.5 if self._rewrites else 10.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._width = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._print()
        if self._rewrites:
            self._stream.write("\n")
            self._stream.flush()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._print()

    def _print(self) -> None:
        line = progress_line(self._tally.counts())
        if self._rewrites:
            # Blanks wipe what a longer line left behind.
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
