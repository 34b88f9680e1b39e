"""``scale``: what the pipeline costs per image by itself, at several sizes. Loads neither torch nor Beam.

All sizes are measured in one process (``tests.benchmarks.scale_job``), in turns, with a scorer that takes no
time and only hashes the bytes, over small files that are hard links of one another.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.hashing_scorer import SIDE_PX
from tests.benchmarks.pictures import jpegs, read_photographs, write_files

_ROOT = Path(__file__).parents[2]
_MIB = 2**20


def measure_scale(
    sizes: Sequence[int], chunk_size: int, runs: int, profiled: Sequence[int] = (), most_pairs: int = 20
) -> dict[str, Any]:
    """Run jobs of growing size, in turns.

    Args:
        sizes: Images of each.
        chunk_size: Images of a chunk.
        runs: Turns; medians are given, with the quartiles about them.
        profiled: Sizes of further jobs, under a profiler that counts processor time and calls.
        most_pairs: Of jobs of a small size, and of one image, in a turn.
    """
    pictures = jpegs(read_photographs(None, 6), SIDE_PX, SIDE_PX)
    sizes = sorted(set(sizes))
    with tempfile.TemporaryDirectory() as folder:
        for size in {*sizes, *profiled}:
            links = Path(folder, f"in-{size}")
            links.mkdir()
            write_files(links, pictures, size)
        turns = ["--turns", str(runs), "--most-pairs", str(most_pairs)]
        told = run_jobs(Path(folder), chunk_size, sizes, turns)
        profiles = run_jobs(Path(folder), chunk_size, profiled, ["--profile"]) if profiled else []
    pairs = [pair for one in told for pair in one["pairs"]]
    return {
        "chunk_size": chunk_size,
        "file_bytes": round(sum(map(len, pictures)) / len(pictures)),
        "fixed_s": round(statistics.median(pair["fixed_s"] for pair in pairs), 2),
        "fixed_processor_s": round(statistics.median(pair["fixed_processor_s"] for pair in pairs), 2),
        "rows": [_row(one) for one in told],
        "end_peak_mib": round(told[0]["end_peak_bytes"] / _MIB),
        "profiles": profiles,
    }


def _row(told: Mapping[str, Any]) -> dict[str, Any]:
    images, pairs = told["images"], told["pairs"]
    seconds = _per_1000(images, [pair["seconds"] - pair["fixed_s"] for pair in pairs])
    processor = _per_1000(images, [pair["processor_s"] - pair["fixed_processor_s"] for pair in pairs])
    return {
        "images": images,
        "jobs": len(pairs),
        "seconds": round(statistics.median(pair["seconds"] for pair in pairs), 2),
        "seconds_per_1000": seconds[1],
        "seconds_per_1000_quartiles": [seconds[0], seconds[2]],
        "processor_s_per_1000": processor[1],
        "processor_s_per_1000_quartiles": [processor[0], processor[2]],
        "peak_mib": round(told["peak_bytes"] / _MIB),
        "files": told["files"],
    }


def _per_1000(images: int, seconds: Sequence[float]) -> list[float]:
    """Quartiles, the median in the middle."""
    cuts = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    return [round(cut / images * 1000, 3) for cut in cuts]


def run_jobs(
    folder: Path, chunk_size: int, sizes: Sequence[int], options: Sequence[str]
) -> list[dict[str, Any]]:
    """Run jobs over the links in ``folder``, all in one process; gives what it told of every size."""
    module = [sys.executable, "-m", "tests.benchmarks.scale_job"]
    command = [*module, *options, str(folder), str(chunk_size), *map(str, sizes)]
    run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(
            f"the jobs over {', '.join(map(str, sizes))} images ended with exit code {run.returncode}:\n"
            f"{run.stderr}"
        )
    told: list[dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    return told
