"""Labels from a model: what people said stays, what lacked is filled, and a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.adapters import read_manifest
from model.backbone import EMBEDDED_ADAPTER
from schemas.errors import ConfigurationError
from tests.training.toy import toy_annotations, toy_files
from training import labelling
from training.annotation_files import read_annotations, write_annotations
from training.dataset_file import DatasetFacts, read_facts, write_facts
from training.labelling import LabelSettings, label_dataset


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    annotations = [
        one.model_copy(update={"exposure": None, "composition": None}) for one in toy_annotations(6)
    ]
    for annotation, content in zip(annotations, toy_files(6), strict=True):
        (folder / annotation.image).write_bytes(content)
    write_annotations(folder, annotations)
    write_facts(folder, DatasetFacts(name="toy", layout="own", native_low=0, native_high=10))
    return folder


def _settings(data: Path, **changes: object) -> LabelSettings:
    return LabelSettings(EMBEDDED_ADAPTER, data, data.parent / "labelled", device="cpu", **changes)  # type: ignore[arg-type]


def test_what_lacks_is_filled_and_what_people_said_stays(data) -> None:
    settings = _settings(data)
    assert label_dataset(settings) == 6
    before, after = read_annotations(data), read_annotations(settings.output)
    for old, new in zip(before, after, strict=True):
        assert new.exposure is not None
        assert new.composition is not None
        assert new.model_copy(update={"exposure": None, "composition": None, "image": old.image}) == old
    facts = read_facts(settings.output)
    assert facts is not None
    assert facts.labelled_by == read_manifest(EMBEDDED_ADAPTER)[1]
    assert facts.native == (0, 10)


def test_a_killed_run_goes_on_and_a_half_written_line_does_no_harm(data, monkeypatch) -> None:
    settings = _settings(data)
    monkeypatch.setattr(labelling, "_AT_A_TIME", 2)
    append, calls = labelling._append, 0

    def dying(file, labelled):
        nonlocal calls
        calls += 1
        if calls == 3:
            with file.open("a", encoding="utf-8") as end:
                end.write(labelled[0].model_dump_json()[:40])
            raise KeyboardInterrupt
        append(file, labelled)

    monkeypatch.setattr(labelling, "_append", dying)
    with pytest.raises(KeyboardInterrupt):
        label_dataset(settings)
    assert not settings.output.exists()
    scored = []
    score = labelling.score_images

    def counted(scorer, images, contexts):
        scored.extend(images)
        return score(scorer, images, contexts)

    monkeypatch.setattr(labelling, "_append", append)
    monkeypatch.setattr(labelling, "score_images", counted)
    label_dataset(settings)
    assert len(scored) == 2
    assert all(one.exposure for one in read_annotations(settings.output))
    assert sorted(path.name for path in settings.output.iterdir()) == ["annotations.jsonl", "dataset.json"]


def test_what_another_run_left_is_refused(data) -> None:
    settings = _settings(data)
    work = settings.output.parent / ".labelled.labelling"
    work.mkdir()
    (work / "run.json").write_text(json.dumps({"adapter": "another"}), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="another adapter or other data"):
        label_dataset(settings)


def test_scores_whose_range_nobody_says_are_refused(data) -> None:
    (data / "dataset.json").unlink()
    with pytest.raises(ConfigurationError, match="--mos-range"):
        label_dataset(_settings(data))
    assert label_dataset(_settings(data, mos_range=(0.0, 20.0))) == 6
    facts = read_facts(data.parent / "labelled")
    assert facts is not None
    assert facts.native == (0, 20)
