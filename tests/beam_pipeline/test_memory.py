from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.beam_pipeline.helpers import rows, write_photos

pytestmark = pytest.mark.integration

_JOB = """
import resource, sys
from beam_pipeline.__main__ import main
from beam_pipeline.scoring.fakes import FakeScorerFactory
code = main(sys.argv[1:], FakeScorerFactory())
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def _peak(photo: Path, count: int, folder: Path) -> int:
    (folder / "photos").mkdir(parents=True)
    for number in range(count):
        os.link(photo, folder / "photos" / f"{number:05}.jpg")
    arguments = ["--input", str(folder / "photos"), "--output", str(folder / "out"), "--no-progress"]
    done = subprocess.run(
        [sys.executable, "-c", _JOB, *arguments], capture_output=True, text=True, check=True
    )
    assert len(rows(folder / "out", "scores")) == count
    return int(done.stdout.rsplit("peak", 1)[1])


def test_peak_memory_is_flat_between_200_and_2000_images(tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path, 1)
    few, many = (_peak(photo, count, tmp_path / str(count)) for count in (200, 2000))
    assert many < 1.15 * few
