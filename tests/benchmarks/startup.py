"""``startup``: how soon a command answers, and how soon a batch job has its first rows. Loads no torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.pictures import jpegs, read_photographs, write_files

_ROOT = Path(__file__).parents[2]
COMMANDS = {
    "model --help": ["model", "--help"],
    "beam_pipeline --help": ["beam_pipeline", "--help"],
    "training --help": ["training", "--help"],
    "beam_pipeline, an option without its value": ["beam_pipeline", "--input", "a", "--chunk-size"],
    "beam_pipeline, a number out of range": ["beam_pipeline", "--input", ".", "--chunk-size", "0"],
    "beam_pipeline, an unknown template": [
        "beam_pipeline", "--input", ".", "--output", "o", "--template", "none",
    ],
}  # fmt: skip
_HEAVY = ("torch", "transformers", "apache_beam")
_POLL_S = 0.01


def measure_startup(images: int, runs: int, photos: Path | None = None) -> dict[str, Any]:
    """Measure commands that answer at once, and a batch job of the embedded model on this machine.

    Args:
        images: Of the job.
        runs: Of everything; medians are given.
        photos: Folder of photographs; None = those that wheels ship.
    """
    commands = [answer_time(name, module, runs) for name, module in COMMANDS.items()]
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder, "in")
        links.mkdir()
        pictures = read_photographs(photos, images)
        write_files(links, [jpegs([one], *one.shape[:2])[0] for one in pictures], images)
        jobs = [job_times(links, Path(folder, f"out{run}")) for run in range(runs)]
    first, whole = (round(statistics.median(column), 2) for column in zip(*jobs, strict=True))
    return {"commands": commands, "images": images, "first_rows_s": first, "job_s": whole}


def answer_time(name: str, arguments: list[str], runs: int) -> dict[str, Any]:
    """Time ``python -m`` with arguments, and see which heavy modules it imported."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        _python("-m", *arguments)
        seconds.append(time.perf_counter() - start)
    told = _python("-X", "importtime", "-m", *arguments)
    return {
        "command": name,
        "seconds": round(statistics.median(seconds), 2),
        "exit_code": told.returncode,
        "imported": heavy_imports(told.stderr),
    }


def heavy_imports(said: str) -> list[str]:
    """Which of torch, transformers and Beam ``-X importtime`` tells of."""
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if "|" in line}
    return [module for module in _HEAVY if module in imported]


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)


def job_times(links: Path, output: Path) -> tuple[float, float]:
    """Seconds from the start of the process to the first file of rows, and to its end."""
    command = [sys.executable, "-m", "beam_pipeline", "--input", str(links), "--output", str(output)]
    start = time.perf_counter()
    first = None
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
        assert job.stderr is not None  # a pipe
        while job.poll() is None:
            if first is None and next(output.glob("scores/date=*/*.parquet"), None) is not None:
                first = time.perf_counter() - start
            time.sleep(_POLL_S)
        whole = time.perf_counter() - start
        if job.returncode or not any(output.glob("scores/date=*/*.parquet")):
            raise RuntimeError(
                f"the job ended with exit code {job.returncode}:\n{job.stderr.read().decode()}"
            )
    return (whole if first is None else first), whole
