"""``scale``: what the pipeline costs per image by itself, at several sizes. Loads neither torch nor Beam.

Every size is measured in processes of its own (``tests.benchmarks.scale_job``), with a scorer that takes no
time and only hashes the bytes, over small files that are hard links of one another.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.hashing_scorer import SIDE_PX
from tests.benchmarks.pictures import jpegs, read_photographs, write_files

_ROOT = Path(__file__).parents[2]
_MIB = 2**20
_LEAST_IMAGES = 10_000
_MOST_JOBS = 10


def measure_scale(
    sizes: Sequence[int], chunk_size: int, runs: int, profiled: int | None = None
) -> dict[str, Any]:
    """Run jobs of growing size, in turns.

    A small size has more jobs in each process, up to ten, until they come to 10,000 images: their difference
    to a job over one image would drown in what the machine does besides.

    Args:
        sizes: Images of each.
        chunk_size: Images of a chunk.
        runs: Processes of each size; medians are given, and for memory the most.
        profiled: Images of one more job, under a profiler that counts processor time; None = no such job.
    """
    pictures = jpegs(read_photographs(None, 6), SIDE_PX, SIDE_PX)
    options = ["--chunk-size", str(chunk_size)]
    with tempfile.TemporaryDirectory() as folder:
        told: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
        for run in range(runs):
            for size, found in told.items():
                times = min(max(_LEAST_IMAGES // size, 1), _MOST_JOBS)
                found.append(run_jobs(Path(folder, f"{size}-{run}"), pictures, size, options, times))
        profile = None
        if profiled is not None:
            one = run_jobs(Path(folder, "profiled"), pictures, profiled, options, 1, "--profile")
            profile = {"images": profiled, "profiled_s": one["profiled_s"], "top": one["top"]}
    everything = [one for found in told.values() for one in found]
    return {
        "chunk_size": chunk_size,
        "file_bytes": round(sum(map(len, pictures)) / len(pictures)),
        "fixed_s": round(_median(everything, "fixed_s"), 2),
        "fixed_processor_s": round(_median(everything, "fixed_processor_s"), 2),
        "rows": [_row(size, found) for size, found in told.items()],
        "profile": profile,
    }


def _row(size: int, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": size,
        "seconds": round(_median(told, "seconds"), 2),
        "seconds_per_1000": round(_median(told, "above_fixed_s") / size * 1000, 3),
        "processor_s_per_1000": round(_median(told, "above_fixed_processor_s") / size * 1000, 3),
        "peak_mib": round(max(one["peak_bytes"] for one in told) / _MIB),
        "files": told[0]["files"],
    }


def _median(told: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(float(one[name]) for one in told)


def run_jobs(
    folder: Path, pictures: Sequence[bytes], images: int, options: Sequence[str], times: int, *flags: str
) -> dict[str, Any]:
    """Run jobs over hard links of pictures in a new folder, ``times`` in one process; gives what it told."""
    links = folder / "in"
    links.mkdir(parents=True)
    write_files(links, pictures, images)
    module = [sys.executable, "-m", "tests.benchmarks.scale_job"]
    command = [*module, *flags, str(times), str(links), str(folder / "out"), *options]
    run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(
            f"the jobs over {images} images ended with exit code {run.returncode}:\n{run.stderr}"
        )
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told
