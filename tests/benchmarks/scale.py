"""``scale``: what the pipeline costs per image by itself, at several sizes. Loads neither torch nor Beam.

Every size is a job in a process of its own (``tests.benchmarks.scale_job``), with a scorer that takes no time
and only hashes the bytes, over small files that are hard links of one another.
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


def measure_scale(
    sizes: Sequence[int], chunk_size: int, runs: int, profiled: int | None = None
) -> dict[str, Any]:
    """Run jobs of growing size, in turns.

    Args:
        sizes: Images of each.
        chunk_size: Images of a chunk.
        runs: Of each size; medians are given, and for memory the most.
        profiled: Images of one more job, under a profiler that counts processor time; None = no such job.
    """
    pictures = jpegs(read_photographs(None, 6), SIDE_PX, SIDE_PX)
    options = ["--chunk-size", str(chunk_size)]
    with tempfile.TemporaryDirectory() as folder:
        told: dict[int, list[dict[str, Any]]] = {size: [] for size in (1, *sizes)}
        for run in range(runs):
            for size, found in told.items():
                found.append(run_job(Path(folder, f"{size}-{run}"), pictures, size, options))
        profile = None
        if profiled is not None:
            one = run_job(Path(folder, "profiled"), pictures, profiled, options, "--profile")
            profile = {"images": profiled, "profiled_s": one["profiled_s"], "top": one["top"]}
    fixed, fixed_processor = (_median(told[1], name) for name in ("seconds", "processor_s"))
    return {
        "chunk_size": chunk_size,
        "file_bytes": round(sum(map(len, pictures)) / len(pictures)),
        "fixed_s": round(fixed, 2),
        "fixed_processor_s": round(fixed_processor, 2),
        "rows": [_row(size, told[size], fixed, fixed_processor) for size in sizes],
        "profile": profile,
    }


def _row(size: int, told: Sequence[dict[str, Any]], fixed: float, fixed_processor: float) -> dict[str, Any]:
    seconds, processor = _median(told, "seconds"), _median(told, "processor_s")
    return {
        "images": size,
        "seconds": round(seconds, 2),
        "seconds_per_1000": round((seconds - fixed) / size * 1000, 3),
        "processor_s_per_1000": round((processor - fixed_processor) / size * 1000, 3),
        "peak_mib": round(max(one["peak_bytes"] for one in told) / _MIB),
        "files": told[0]["files"],
    }


def _median(told: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(float(one[name]) for one in told)


def run_job(
    folder: Path, pictures: Sequence[bytes], images: int, options: Sequence[str], *flags: str
) -> dict[str, Any]:
    """Run one job over hard links of pictures in a new folder; gives what it told."""
    links = folder / "in"
    links.mkdir(parents=True)
    write_files(links, pictures, images)
    command = [sys.executable, "-m", "tests.benchmarks.scale_job", *flags, str(links), str(folder / "out")]
    run = subprocess.run([*command, *options], cwd=_ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(
            f"the job over {images} images ended with exit code {run.returncode}:\n{run.stderr}"
        )
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told
