from __future__ import annotations

import pytest
from PIL import Image

from schemas.errors import ConfigurationError
from tests.training.pictures import toy_cutout
from training.demo import cutouts
from training.demo.cutouts import cutout_catalogue, load_cutouts


def test_the_catalogue_is_complete_and_its_splits_share_nothing() -> None:
    everything = cutout_catalogue()
    paths = {split: {cutout.path for cutout in cutout_catalogue(split)} for split in ("train", "test")}
    assert {split: len(found) for split, found in paths.items()} == {"train": 94, "test": 22}
    assert len({cutout.path for cutout in everything}) == len(everything) == 116
    assert all(cutout.licence and cutout.author and cutout.origin for cutout in everything)
    assert {cutout.resource for cutout in everything} == {"lang"}


def test_cutouts_come_with_alpha_cut_to_their_outline(tmp_path, monkeypatch) -> None:
    first = cutout_catalogue("test")[0]
    monkeypatch.setattr(cutouts, "cutout_catalogue", lambda split: (first,))
    padded = Image.new("RGBA", (900, 900))
    padded.paste(toy_cutout("red", 640, 320), (100, 200))
    path = tmp_path / first.path
    path.parent.mkdir(parents=True)
    padded.save(path)
    (found,) = load_cutouts("test", tmp_path)
    assert found.mode == "RGBA"
    assert found.size == (320, 160)  # more is never shown


def test_all_that_are_missing_are_named(tmp_path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_cutouts("test", tmp_path)
    assert len(caught.value.reasons) == 22
