"""The photographs that ``make demo`` scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.__main__ import main
from training.demo.gallery import FAULTS


def test_the_six_demo_photographs_come_with_a_copy_for_every_fault(tmp_path: Path) -> None:
    assert main(["photographs", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    plain = [name for name in names if "-" not in name]
    assert len(plain) == 6
    assert len(names) == 6 * (1 + len(FAULTS))
    means = {name: np.asarray(Image.open(tmp_path / "out" / name).convert("L")).mean() for name in names}
    for name in plain:
        stem = Path(name).stem
        assert means[f"{stem}-dark.jpg"] < means[name] < means[f"{stem}-bright.jpg"]


def test_plain_means_no_copies_and_a_file_is_no_folder(tmp_path: Path) -> None:
    assert main(["photographs", str(tmp_path), "--plain"]) == 0
    assert len(list(tmp_path.iterdir())) == 6
    assert main(["photographs", str(next(tmp_path.iterdir()))]) == 2
