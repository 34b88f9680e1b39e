"""One job of ``scale``, in a process of its own; prints what it cost as one line of JSON.

python -m tests.benchmarks.scale_job [--profile] INPUT OUTPUT [pipeline options]
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beam_pipeline.__main__ import main as run_pipeline
from beam_pipeline.fakes import FakeScorerFactory
from tests.benchmarks.hashing_scorer import HashingScorer
from tests.benchmarks.machine import process_bytes

_TOP = 15


def main(argv: Sequence[str]) -> int:
    """Run one job."""
    profiled = argv[0] == "--profile"
    links, output, *options = argv[profiled:]
    job = ["--input", links, "--output", output, "--no-progress", *options]
    factory = FakeScorerFactory(HashingScorer())
    profiles: list[cProfile.Profile] = []
    start = time.perf_counter()
    if profiled:
        with _profiling_all_threads(profiles):
            code = run_pipeline(job, factory)
    else:
        code = run_pipeline(job, factory)
    seconds = time.perf_counter() - start
    told: dict[str, Any] = {
        "seconds": seconds,
        "peak_bytes": process_bytes("VmHWM"),
        "files": sum(1 for _ in Path(output).glob("scores/date=*/*.parquet")),
    }
    if profiled:
        told |= _profile(profiles)
    print(json.dumps(told))
    return code


@contextmanager
def _profiling_all_threads(profiles: list[cProfile.Profile]) -> Iterator[None]:
    """Profile this thread and all that start in here, by processor time: waiting counts nothing."""
    plain: Callable[[threading.Thread], None] = threading.Thread.run

    def profiled_run(thread: threading.Thread) -> None:
        profile = cProfile.Profile(time.thread_time)
        profiles.append(profile)
        try:
            profile.runcall(plain, thread)
        finally:
            profile.disable()

    threading.Thread.run = profiled_run  # type: ignore[method-assign,assignment]
    own = cProfile.Profile(time.thread_time)
    profiles.append(own)
    try:
        own.enable()
        yield
    finally:
        own.disable()
        threading.Thread.run = plain  # type: ignore[method-assign,assignment]


def _profile(profiles: Sequence[cProfile.Profile]) -> dict[str, Any]:
    merged = pstats.Stats()
    for profile in profiles:
        profile.create_stats()
        if profile.stats:
            merged.add(profile)
    found = merged.stats  # type: ignore[attr-defined]
    order = sorted(found.items(), key=lambda item: -item[1][2])
    top = [
        {
            "function": _named(*place),
            "calls": calls,
            "own_s": round(own, 3),
            "with_callees_s": round(cumulative, 3),
        }
        for place, (_, calls, own, cumulative, _callers) in order[:_TOP]
    ]
    return {"processor_s": round(sum(entry[2] for entry in found.values()), 2), "top": top}


def _named(file: str, line: int, function: str) -> str:
    # Without the part of a path that says where packages are installed.
    place = "/".join(Path(file).parts[-3:]) if "/" in file else ""
    return f"{place}:{line} {function}" if place else function


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
