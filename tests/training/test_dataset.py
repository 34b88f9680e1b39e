"""The demo's data set is a data set like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.pictures import toy_cutout, toy_picture
from tests.training.toy import RULE
from training.annotation_files import image_file, read_annotations
from training.data import LabelledImages
from training.demo import dataset
from training.demo.cutouts import cutout_catalogue
from training.demo.dataset import DataSettings, Material, find_material, share_out, write_dataset
from training.demo.photo_files import PhotoFile
from training.demo.pictures import degraded_picture, photograph_order, props, shrunk_photograph

COUNTS = {"train": 9, "test": 5}


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> dict[str, Material]:
    folder = tmp_path_factory.mktemp("photos")
    found = {}
    for number, (split, colours) in enumerate({"train": ("red", "lime"), "test": ("cyan",)}.items()):
        files = []
        for index in range(4):
            path = folder / f"{split}{index}.png"
            Image.fromarray(toy_picture(10 * number + index, 120, 160)).save(path)
            files.append(PhotoFile(path.stem, path))
        found[split] = Material(files, [toy_cutout(colour, 60, 80) for colour in colours])
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read_back(material, tmp_path) -> None:
    made = write_dataset(tmp_path, material, DataSettings(COUNTS, RULE))
    for split, found in made.items():
        assert tuple(read_annotations(tmp_path, split)) == found
        assert len(found) == COUNTS[split]
        seed = dataset.SEED + (split == "test")
        order = photograph_order(4, COUNTS[split], seed)
        stock = props(material[split].cutouts, RULE)
        for number, annotation in enumerate(found):
            photograph = shrunk_photograph(material[split].photographs[order[number]].read(), RULE)
            same = degraded_picture(photograph, stock, number, RULE, seed)
            assert image_file(tmp_path, annotation).read_bytes() == same.data
            assert annotation.source == photograph.name
    images = LabelledImages.of_folder(tmp_path, made["train"], RULE)
    assert all(image.pixels.shape[0] * image.pixels.shape[1] <= RULE.max_pixels for image in images)


def test_the_number_of_processes_does_not_matter(material, tmp_path) -> None:
    for processes in (1, 2):
        write_dataset(tmp_path / str(processes), material, DataSettings(COUNTS, RULE, processes=processes))
    assert _files(tmp_path / "1") == _files(tmp_path / "2")


def test_splits_share_no_photograph_and_no_seed(material, tmp_path) -> None:
    made = write_dataset(tmp_path, material, DataSettings(COUNTS, RULE))
    sources = [{annotation.source for annotation in made[split]} for split in COUNTS]
    assert not sources[0] & sources[1]
    scores = [[annotation.mos for annotation in made[split]][: COUNTS["test"]] for split in COUNTS]
    assert scores[0] != scores[1]


def test_the_test_pictures_are_the_same_with_and_without_training_ones(material, tmp_path) -> None:
    write_dataset(tmp_path / "both", material, DataSettings(COUNTS, RULE))
    write_dataset(tmp_path / "test", {"test": material["test"]}, DataSettings({"test": 5}, RULE))
    alone = _files(tmp_path / "test" / "test")
    assert alone
    assert _files(tmp_path / "both" / "test") == alone


def test_another_seed_gives_other_pictures(material, tmp_path) -> None:
    for seed in (1, 2):
        write_dataset(tmp_path / str(seed), material, DataSettings({"train": 4}, RULE, seed))
    assert _files(tmp_path / "1") != _files(tmp_path / "2")


def test_informative_captions_change_contexts_alone(material, tmp_path) -> None:
    usual = write_dataset(tmp_path / "usual", material, DataSettings(COUNTS, RULE))
    told = write_dataset(tmp_path / "told", material, DataSettings(COUNTS, RULE, captions="informative"))
    for split, count in COUNTS.items():
        assert _files(tmp_path / "told" / split) == _files(tmp_path / "usual" / split)
        bare = [[one.model_copy(update={"context": None}) for one in made[split]] for made in (usual, told)]
        assert bare[0] == bare[1]
        assert sum(one.context is not None for one in told[split]) in (count // 2, count - count // 2)


def test_every_photograph_is_used_equally_often() -> None:
    counts = np.bincount(photograph_order(7, 25, seed=3))
    assert (counts.min(), counts.max()) == (3, 4)
    assert photograph_order(7, 25, 3) == photograph_order(7, 25, 3) != photograph_order(7, 25, 4)


def test_each_split_gets_its_own_photographs_and_cutouts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        dataset, "catalogue_files", lambda split, cache: [PhotoFile(f"{split}-photo", cache / split)]
    )
    monkeypatch.setattr(dataset, "fetch", lambda cache: cache)
    monkeypatch.setattr(
        dataset, "load_cutouts", lambda split, folder: [cutout.path for cutout in cutout_catalogue(split)]
    )
    found = find_material(("train", "test"), None, tmp_path)
    assert [file.name for file in found["test"].photographs] == ["test-photo"]
    assert not set(found["train"].cutouts) & set(found["test"].cutouts)
    assert set(find_material(("test",), None, tmp_path)) == {"test"}


def test_validation_is_every_eighth_photograph_and_fifth_cutout_of_those_for_training(
    tmp_path, monkeypatch
) -> None:
    files = [PhotoFile(f"p{number:02}", tmp_path) for number in range(20)]
    monkeypatch.setattr(dataset, "photographs_of_folder", lambda folder: {"train": files, "test": []})
    monkeypatch.setattr(dataset, "fetch", lambda cache: cache)
    monkeypatch.setattr(dataset, "load_cutouts", lambda split, folder: list(range(12)))
    both = find_material(("train", "validation"), tmp_path, tmp_path)
    assert [file.name for file in both["validation"].photographs] == ["p00", "p08", "p16"]
    assert both["validation"].cutouts == [0, 5, 10]
    assert both["train"].cutouts == [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert len(both["train"].photographs) == 17
    assert not set(both["train"].photographs) & set(both["validation"].photographs)
    alone = find_material(("validation",), tmp_path, tmp_path)
    assert alone == {"validation": both["validation"]}
    assert len(find_material(("train", "test"), tmp_path, tmp_path)["train"].photographs) == 20


def test_validation_pictures_are_the_same_alone_and_beside_training_ones(material, tmp_path) -> None:
    photographs = share_out(("train", "validation"), {"train": material["train"].photographs}, 3)
    parts = {split: Material(found, material["train"].cutouts) for split, found in photographs.items()}
    made = write_dataset(tmp_path / "both", parts, DataSettings({"train": 6, "validation": 4}, RULE))
    alone = {"validation": parts["validation"]}
    write_dataset(tmp_path / "alone", alone, DataSettings({"validation": 4}, RULE))
    written = _files(tmp_path / "alone" / "validation")
    assert len(written) == 4
    assert _files(tmp_path / "both" / "validation") == written
    # What is read back is checked: no source on both sides.
    assert tuple(read_annotations(tmp_path / "both", "validation")) == made["validation"]
