"""``scale``: what the pipeline costs per image by itself, at several sizes. Loads neither torch nor Beam.

Every size is a job in a process of its own (``tests.benchmarks.scale_job``), with a scorer that takes no time
and only hashes the bytes, over small files that are hard links of one another.
"""

from __future__ import annotations

import json
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
    sizes: Sequence[int], chunk_size: int, profiled: int | None, further: Sequence[str] = ()
) -> dict[str, Any]:
    """Run jobs of growing size.

    Args:
        sizes: Images of each.
        chunk_size: Images of a chunk.
        profiled: Images of one more job, under a profiler that counts processor time; None = no such job.
        further: Options of the pipeline for all jobs.
    """
    pictures = jpegs(read_photographs(None, 6), SIDE_PX, SIDE_PX)
    options = ["--chunk-size", str(chunk_size), *further]
    with tempfile.TemporaryDirectory() as folder:
        fixed = run_job(Path(folder, "one"), pictures, 1, options)["seconds"]
        rows = []
        for size in sizes:
            told = run_job(Path(folder, str(size)), pictures, size, options)
            rows.append(
                {
                    "images": size,
                    "seconds": round(told["seconds"], 2),
                    "seconds_per_1000": round((told["seconds"] - fixed) / size * 1000, 3),
                    "peak_mib": round(told["peak_bytes"] / _MIB),
                    "files": told["files"],
                }
            )
        profile = None
        if profiled is not None:
            told = run_job(Path(folder, "profiled"), pictures, profiled, options, "--profile")
            profile = {"images": profiled, "processor_s": told["processor_s"], "top": told["top"]}
    return {
        "chunk_size": chunk_size,
        "options": list(further),
        "file_bytes": round(sum(map(len, pictures)) / len(pictures)),
        "fixed_s": round(fixed, 2),
        "rows": rows,
        "profile": profile,
    }


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
