"""Any folder of photographs in place of the catalogue's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import ConfigurationError
from tests.training.pictures import toy_picture
from training.demo.photo_files import PhotoFile, photographs_of_folder


def _folder(tmp_path: Path, count: int = 12) -> Path:
    for number in range(count):
        file = tmp_path / "photos" / f"day {number % 2}" / f"IMG {number // 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toy_picture(number, 200, 260)).save(file)
    return tmp_path / "photos"


def test_a_fifth_is_for_testing_and_names_are_unique(tmp_path) -> None:
    found = photographs_of_folder(_folder(tmp_path))
    assert {split: len(files) for split, files in found.items()} == {"train": 10, "test": 2}
    files = [*found["train"], *found["test"]]
    assert len({file.name for file in files}) == 12
    assert all(file.name.isascii() and " " not in file.name for file in files)


def test_the_split_follows_content_and_not_names(tmp_path) -> None:
    folder = _folder(tmp_path)
    before = {file.path.read_bytes() for file in photographs_of_folder(folder)["test"]}
    for number, path in enumerate(sorted(folder.rglob("*.png"), reverse=True)):
        path.rename(folder / f"{number}.png")
    assert {file.path.read_bytes() for file in photographs_of_folder(folder)["test"]} == before


def test_what_cannot_be_used_is_named_and_counted(tmp_path, capsys) -> None:
    folder = _folder(tmp_path)
    (folder / "notes.txt").write_text("no picture")
    Image.new("RGB", (300, 150)).save(folder / "small.png")
    shutil.copy(next(folder.rglob("*.png")), folder / "zz.png")
    whole = next(folder.rglob("IMG*.png")).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert sum(map(len, photographs_of_folder(folder).values())) == 12
    said = capsys.readouterr().err
    for part in ("notes.txt: not a picture", "small.png: 300 × 150 px is too small", "zz.png", "cut.png: "):
        assert part in said
    assert "4 of 16 files" in said


def test_too_few_photographs_are_an_error(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="9 usable photographs; 10 are the fewest"):
        photographs_of_folder(_folder(tmp_path, 9))
    with pytest.raises(ConfigurationError, match="no folder"):
        photographs_of_folder(tmp_path / "nowhere")


def test_a_photograph_is_read_upright_and_as_rgb(tmp_path) -> None:
    pixels = toy_picture(0, 40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    photograph = PhotoFile("a", tmp_path / "a.png").read()
    assert photograph.name == "a"
    np.testing.assert_array_equal(np.asarray(photograph.image), np.rot90(pixels, -1))
    Image.new("LA", (30, 20), (0, 0)).save(tmp_path / "b.png")
    see_through = PhotoFile("b", tmp_path / "b.png").read().image
    assert (see_through.mode, see_through.getpixel((0, 0))) == ("RGB", (128, 128, 128))
