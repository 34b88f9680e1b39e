"""Jobs of ``scale`` over one folder, in a process of their own; prints what they cost as one line of JSON.

python -m tests.benchmarks.scale_job [--profile] TIMES INPUT OUTPUT [pipeline options]

A first job over one image imports and builds all that is needed only once. Then come pairs: a job over one
image and one over the folder. What the folder's takes longer is what its images cost: what is fixed is in
both, and what else slows the machine down meets both.
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
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from beam_pipeline.__main__ import main as run_pipeline
from beam_pipeline.scoring.engine import release_engines
from beam_pipeline.scoring.fakes import FakeScorerFactory
from tests.benchmarks.hashing_scorer import HashingScorer
from tests.benchmarks.machine import process_bytes

_TOP = 15


@dataclass(frozen=True)
class _Cost:
    """What one job took, seconds; of the processor: all threads of the process."""

    seconds: float
    processor_s: float


def main(argv: Sequence[str]) -> int:
    """Run the jobs."""
    profiled = argv[0] == "--profile"
    times, links, output, *options = argv[profiled:]
    image = Path(output).with_name("one.jpg")
    image.write_bytes(b"any bytes will do")
    one_image = partial(_run, str(image), f"{output}-one", options)
    folder = partial(_run, links, output, options)
    one_image()
    print(json.dumps(_profiled(folder) if profiled else _measured(one_image, folder, int(times), output)))
    return 0


def _measured(
    one_image: Callable[[], _Cost], folder: Callable[[], _Cost], times: int, output: str
) -> dict[str, Any]:
    pairs = [(one_image(), folder()) for _ in range(times)]
    return {
        "fixed_s": median(one.seconds for one, _ in pairs),
        "fixed_processor_s": median(one.processor_s for one, _ in pairs),
        "seconds": median(job.seconds for _, job in pairs),
        "above_fixed_s": median(job.seconds - one.seconds for one, job in pairs),
        "above_fixed_processor_s": median(job.processor_s - one.processor_s for one, job in pairs),
        "peak_bytes": process_bytes("VmHWM"),
        "files": sum(1 for _ in Path(output).glob("scores/date=*/*.parquet")),
    }


def _run(links: str, output: str, options: Sequence[str]) -> _Cost:
    job = ["--input", links, "--output", output, "--no-progress", *options]
    start, processor = time.perf_counter(), time.process_time()
    with redirect_stdout(io.StringIO()):
        code = run_pipeline(job, FakeScorerFactory(HashingScorer()))
    if code:
        raise RuntimeError(f"the job ended with exit code {code}")
    return _Cost(time.perf_counter() - start, time.process_time() - processor)


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


def _profiled(job: Callable[[], _Cost]) -> dict[str, Any]:
    # The engine's threads must start under the profiler.
    release_engines()
    threads: list[_ProfiledThread] = []
    with _profiling_all_threads(threads):
        job()
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
