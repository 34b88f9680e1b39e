"""Jobs of ``scale``, all in this process; prints what they cost as one line of JSON.

python -m tests.benchmarks.scale_job [--turns N] [--most-pairs N] [--profile] FOLDER CHUNK_SIZE IMAGES ...

Jobs over one image, and over each size, import and build all that is needed only once. Then come pairs: a
job over one image and one over ``FOLDER/in-IMAGES``. What the second takes longer is what its images cost:
what is fixed is in both, and what else slows the machine down meets both. All sizes take turns, so it meets
all sizes, too; a small size has more pairs in each turn, until they come to 20,000 images.
Each job finds the heap as clean as a process's only job does: what the jobs before it have left is collected
beforehand, or a collection of 0.3 s for the garbage of many would fall on any one of them.
"""

from __future__ import annotations

import argparse
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
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from beam_pipeline.__main__ import main as run_pipeline
from beam_pipeline.scoring.engine import release_engines
from beam_pipeline.scoring.fakes import FakeScorerFactory
from tests.benchmarks.hashing_scorer import HashingScorer
from tests.benchmarks.machine import process_bytes

_TOP = 15
_IMAGES_A_TURN = 20_000
_Job = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class _Pair:
    """What a job over one image took, and one over a folder; seconds; of the processor: all threads."""

    fixed_s: float
    fixed_processor_s: float
    seconds: float
    processor_s: float


@dataclass
class _Size:
    """What the jobs over one folder told.

    Attributes:
        images: In the folder.
        peak_bytes: Of the process, after its first job; sizes grow, so no larger one had come before.
        end_peak_bytes: After all jobs of all sizes.
        files: That a job wrote.
        pairs: All, in order.
    """

    images: int
    peak_bytes: int | None = None
    end_peak_bytes: int | None = None
    files: int = 0
    pairs: list[_Pair] = field(default_factory=list)


def main(argv: Sequence[str]) -> int:
    """Run the jobs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--most-pairs", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("folder", type=Path)
    parser.add_argument("chunk_size")
    parser.add_argument("images", type=int, nargs="+")
    options = parser.parse_args(argv)
    image = options.folder / "one.jpg"
    image.write_bytes(b"any bytes will do")
    one_image = partial(_run, image, options.folder / "out-one", options.chunk_size)
    jobs = {
        images: partial(
            _run, options.folder / f"in-{images}", options.folder / f"out-{images}", options.chunk_size
        )
        for images in sorted(options.images)
    }
    one_image()
    told = _profiles(one_image, jobs) if options.profile else _measured(one_image, jobs, options)
    print(json.dumps(told))
    return 0


def _measured(
    one_image: _Job, jobs: dict[int, partial[tuple[float, float]]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    sizes = [_Size(images) for images in jobs]
    for size in sizes:
        jobs[size.images]()
        size.peak_bytes = process_bytes("VmHWM")
        size.files = sum(1 for _ in options.folder.glob(f"out-{size.images}/scores/date=*/*.parquet"))
    for _ in range(options.turns):
        for size in sizes:
            for _ in range(min(max(_IMAGES_A_TURN // size.images, 1), options.most_pairs)):
                size.pairs.append(_Pair(*one_image(), *jobs[size.images]()))
    for size in sizes:
        size.end_peak_bytes = process_bytes("VmHWM")
    return [asdict(size) for size in sizes]


def _run(links: Path, output: Path, chunk_size: str) -> tuple[float, float]:
    job = ["--input", str(links), "--output", str(output), "--chunk-size", chunk_size, "--no-progress"]
    gc.collect()
    start, processor = time.perf_counter(), time.process_time()
    with redirect_stdout(io.StringIO()):
        code = run_pipeline(job, FakeScorerFactory(HashingScorer()))
    if code:
        raise RuntimeError(f"the job ended with exit code {code}")
    return time.perf_counter() - start, time.process_time() - processor


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


def _profiles(one_image: _Job, jobs: dict[int, partial[tuple[float, float]]]) -> list[dict[str, Any]]:
    for job in jobs.values():
        job()
    fixed = _calls(_profiled(one_image))
    told = []
    for images, job in jobs.items():
        found = _profiled(job)
        told.append(
            {
                "images": images,
                "calls_per_image": round((_calls(found) - fixed) / max(images - 1, 1), 1),
                "profiled_s": round(sum(entry[2] for entry in found.values()), 2),
                "top": _top(found),
            }
        )
    return told


def _profiled(job: _Job) -> dict[Any, Any]:
    """Profile one job, all its threads; gives what ``pstats`` keeps of every function."""
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
    found: dict[Any, Any] = merged.stats  # type: ignore[attr-defined]
    return found


def _calls(found: dict[Any, Any]) -> int:
    return sum(entry[1] for entry in found.values())


def _top(found: dict[Any, Any]) -> list[dict[str, Any]]:
    order = sorted(found.items(), key=lambda item: -item[1][2])
    return [
        {
            "function": _named(*place),
            "calls": calls,
            "own_s": round(own, 3),
            "with_callees_s": round(cumulative, 3),
        }
        for place, (_, calls, own, cumulative, _callers) in order[:_TOP]
    ]


def _named(file: str, line: int, function: str) -> str:
    # Without the part of a path that says where packages are installed.
    place = "/".join(Path(file).parts[-3:]) if "/" in file else ""
    return f"{place}:{line} {function}" if place else function


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
