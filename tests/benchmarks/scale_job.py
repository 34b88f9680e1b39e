"""One job of ``scale``, in a process of its own; prints what it cost as one line of JSON.

python -m tests.benchmarks.scale_job [--profile] INPUT OUTPUT [pipeline options]
"""

from __future__ import annotations

import cProfile
import gc
import io
import json
import pstats
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_pipeline.__main__ import main as run_pipeline
from beam_pipeline.scoring.engine import release_engines
from beam_pipeline.scoring.fakes import FakeScorerFactory
from tests.benchmarks.hashing_scorer import HashingScorer
from tests.benchmarks.machine import process_bytes

_TOP = 15


def main(argv: Sequence[str]) -> int:
    """Run one job."""
    profiled = argv[0] == "--profile"
    links, output, *options = argv[profiled:]
    job = ["--input", links, "--output", output, "--no-progress", *options]
    factory = FakeScorerFactory(HashingScorer())
    if profiled:
        _warm_up(Path(output), factory)
    threads: list[_ProfiledThread] = []
    start = time.perf_counter()
    with _profiling_all_threads(threads) if profiled else nullcontext():
        code = run_pipeline(job, factory)
    seconds = time.perf_counter() - start
    told: dict[str, Any] = {
        "seconds": seconds,
        "processor_s": time.process_time(),
        "peak_bytes": process_bytes("VmHWM"),
        "files": sum(1 for _ in Path(output).glob("scores/date=*/*.parquet")),
    }
    if profiled:
        told |= _profile(threads)
    print(json.dumps(told))
    return code


def _warm_up(output: Path, factory: FakeScorerFactory) -> None:
    """A job over one image: what is imported and built only once is no cost per image."""
    image = output.with_name("warm_up.jpg")
    image.write_bytes(b"any bytes will do")
    job = ["--input", str(image), "--output", str(output.with_name("warm_up")), "--no-progress"]
    with redirect_stdout(io.StringIO()):
        run_pipeline(job, factory)
    release_engines()


@dataclass(frozen=True)
class _ProfiledThread:
    thread: threading.Thread
    profile: cProfile.Profile


@contextmanager
def _profiling_all_threads(threads: list[_ProfiledThread]) -> Iterator[None]:
    """Profile this thread and all that start in here, by processor time: waiting counts nothing."""
    plain: Callable[[threading.Thread], None] = threading.Thread.run

    def profiled_run(thread: threading.Thread) -> None:
        profile = cProfile.Profile(time.thread_time)
        threads.append(_ProfiledThread(thread, profile))
        try:
            profile.runcall(plain, thread)
        finally:
            profile.disable()

    threading.Thread.run = profiled_run  # type: ignore[method-assign,assignment]
    own = cProfile.Profile(time.thread_time)
    threads.append(_ProfiledThread(threading.current_thread(), own))
    try:
        own.enable()
        yield
    finally:
        own.disable()
        threading.Thread.run = plain  # type: ignore[method-assign,assignment]


def _profile(threads: Sequence[_ProfiledThread]) -> dict[str, Any]:
    # A thread that still waits for work would be charged with this thread's time.
    for pool in gc.get_objects():
        if issubclass(type(pool), ThreadPoolExecutor):
            pool.shutdown()
    merged = pstats.Stats()
    for one in threads:
        if one.thread is not threading.current_thread() and one.thread.is_alive():
            continue
        one.profile.create_stats()
        if one.profile.stats:
            merged.add(one.profile)
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
    return {"profiled_s": round(sum(entry[2] for entry in found.values()), 2), "top": top}


def _named(file: str, line: int, function: str) -> str:
    # Without the part of a path that says where packages are installed.
    place = "/".join(Path(file).parts[-3:]) if "/" in file else ""
    return f"{place}:{line} {function}" if place else function


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
