from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from schemas.errors import ConfigurationError
from training.demo import photographs
from training.demo.cutouts import cutout_catalogue
from training.demo.photographs import catalogue, perceptual_hash


def test_splits_share_no_photograph() -> None:
    everything = catalogue()
    assert len({p.path for p in everything}) == len(everything)
    splits = {split: {p.path for p in catalogue(split)} for split in ("train", "test", "demo")}
    assert {name: len(paths) for name, paths in splits.items()} == {"train": 208, "test": 44, "demo": 6}


def test_no_photograph_of_a_split_is_nearly_one_of_another() -> None:
    groups = [[int(p.phash, 16) for p in catalogue(split)] for split in ("train", "test", "demo")]
    for index, group in enumerate(groups):
        others = [phash for other in groups[index + 1 :] for phash in other]
        assert all((one ^ other).bit_count() > 6 for one in group for other in others)


def test_every_photograph_in_use_has_a_licence() -> None:
    used = [p for split in ("train", "test", "demo") for p in catalogue(split)]
    assert all(p.licence not in ("", "?") for p in used)


def test_the_hash_survives_a_resize_and_tells_pictures_apart() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((320, 240)) for _ in range(2)
    )
    assert (perceptual_hash(one) ^ perceptual_hash(one.resize((160, 120)))).bit_count() <= 6
    assert (perceptual_hash(one) ^ perceptual_hash(other)).bit_count() > 12


def test_without_apt_the_message_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"apt-get is not on this computer\. By hand: "):
        photographs.fetch(tmp_path / "cache")


def test_every_missing_photograph_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(photographs, "fetch", lambda cache: cache)
    with pytest.raises(ConfigurationError) as caught:
        photographs.load("test", tmp_path)
    assert len(caught.value.reasons) == len(catalogue("test")) + 1


def test_another_picture_of_the_same_name_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(photographs, "fetch", lambda cache: cache)
    first = catalogue("test")[0]
    monkeypatch.setattr(photographs, "catalogue", lambda split: (first,))
    path = tmp_path / first.path
    path.parent.mkdir(parents=True)
    Image.new("RGB", (first.width_px, first.height_px), "red").save(path)
    with pytest.raises(ConfigurationError, match="another picture"):
        photographs.load("test", tmp_path)
    Image.new("RGB", (10, 10)).save(path)
    with pytest.raises(ConfigurationError, match="the catalogue says"):
        photographs.load("test", tmp_path)


def _listed(monkeypatch, photos, cutouts) -> None:
    monkeypatch.setattr(photographs, "catalogue", lambda: photos)
    monkeypatch.setattr(photographs, "cutout_catalogue", lambda: cutouts)


def test_a_cache_of_before_the_cutouts_is_completed_and_what_is_there_stays(tmp_path, monkeypatch) -> None:
    photo, cutout = catalogue("test")[0], cutout_catalogue()[0]
    _listed(monkeypatch, [photo], [cutout])
    there = tmp_path / "unpacked" / photo.path
    there.parent.mkdir(parents=True)
    there.write_bytes(b"photograph")
    (tmp_path / "gcompris-qt-data_1.deb").touch()
    commands = []

    def dpkg(arguments, folder) -> None:
        commands.append(arguments[0])
        (folder / "package").mkdir()

    def unpack(path, target) -> None:
        assert path.name == "lang.rcc"
        file = target.parent / cutout.path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"cut-out")

    monkeypatch.setattr(photographs, "_command", dpkg)
    monkeypatch.setattr("training.demo.rcc.unpack_rcc", unpack)
    assert photographs.fetch(tmp_path) == tmp_path / "unpacked"
    assert there.read_bytes() == b"photograph"
    assert photographs.fetch(tmp_path) == tmp_path / "unpacked"
    assert commands == ["dpkg"]  # nothing fetched, and nothing done the second time


def test_files_of_a_split_have_names_of_their_own_across_splits(tmp_path, monkeypatch) -> None:
    listed = {
        split: [replace(p, width_px=20, height_px=10) for p in catalogue(split)]
        for split in ("train", "test")
    }
    monkeypatch.setattr(photographs, "fetch", lambda cache: cache)
    monkeypatch.setattr(photographs, "catalogue", lambda split: listed[split])
    monkeypatch.setattr(photographs, "_difference", lambda photograph, picture: None)
    for photograph in (*listed["train"], *listed["test"]):
        path = tmp_path / photograph.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(path)
    files = [file for split in listed for file in photographs.catalogue_files(split, tmp_path)]
    assert len({file.name for file in files}) == len(files) == 252
    assert files[0].read().image.size == (20, 10)
