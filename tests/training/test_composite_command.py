"""``composite`` on a tiny random stage-1 adapter: the whole path, no quality."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.adapters import read_manifest, verify_adapter
from model.scorer import Scorer
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.tables import SCORES_SCHEMA
from tests.model.artefact import Artefact
from tests.odd_files import encoded, picture
from tests.training.stage1 import write_stage1_artefact
from training.annotation_files import write_annotations
from training.composite_command import add_composite
from training.composite_run import CompositeSettings

# peft asks transformers for a renamed property.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

COUNT = 12
NAMES = [attribute.name for attribute in VOCABULARY.evaluated]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory) -> Artefact:
    return write_stage1_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index, note in enumerate(notes()):
        (folder / note.image).write_bytes(encoded(picture(60 + 20 * (index % 4), 70, seed=index), "PNG"))
    write_annotations(folder, notes())
    return folder


def notes() -> list[Annotation]:
    rated = [Annotation(image=f"{index}.png", mos=30.0 + 5 * index) for index in range(COUNT)]
    return [*rated, Annotation(image="unrated.png")]


def run(artefact: Artefact, data: Path, output: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    add_composite(parser.add_subparsers().add_parser)
    arguments = ["composite", str(artefact.adapter), str(data), str(output), "--device", "cpu", *options]
    chosen = parser.parse_args(arguments)
    handler: Callable[[argparse.Namespace], int] = chosen.handler
    return handler(chosen)


def write_predictions(file: Path, data: Path, revision: str, **changes) -> dict[str, np.ndarray]:
    """A table as the pipeline writes it, with attributes of our choice; returns them by column."""
    rng = np.random.default_rng(0)
    codes = {f"{name}_expected": rng.uniform(1, 3, size=COUNT).astype("float32") for name in NAMES[:4]}
    rows = [
        {
            **{field.name: None for field in SCORES_SCHEMA},
            "image_uri": str(data / f"{index}.png"),
            "image_generation": 1,
            "attempt": 1,
            "adapter_revision": revision,
            "template": "mix",
            **{name: float(values[index]) for name, values in codes.items()},
            **changes,
        }
        for index in range(COUNT)
    ]
    # An older generation, and another adapter: neither counts.
    rows += [{**rows[0], "image_generation": 0, **dict.fromkeys(codes, 99.0)}]
    rows += [{**rows[1], "adapter_revision": "other", "attempt": 9, **dict.fromkeys(codes, 99.0)}]
    schema = pa.schema([field.with_nullable(True) for field in SCORES_SCHEMA])
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    return codes


def test_a_copy_of_the_adapter_holds_the_weights_and_gives_composite_scores(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    before = {path.name: path.read_bytes() for path in artefact.adapter.iterdir()}
    assert run(artefact, data, tmp_path / "out") == 0
    assert {path.name: path.read_bytes() for path in artefact.adapter.iterdir()} == before
    manifest, revision = read_manifest(tmp_path / "out")
    assert verify_adapter(tmp_path / "out", manifest) == []
    assert revision != read_manifest(artefact.adapter)[1]
    assert manifest.composite is not None
    assert set(manifest.composite.weights) == set(NAMES)
    (worth,) = manifest.evaluation
    assert (worth.target, worth.n, worth.dataset) == (
        "composite_score",
        COUNT,
        f"{data.name}, train, mos, cross-validated",
    )
    files = [data / f"{index}.png" for index in range(COUNT)]
    plain, weighted = Scorer.load(artefact.adapter).score(files), Scorer.load(tmp_path / "out").score(files)
    for old, new in zip(plain, weighted, strict=True):
        assert (old.composite_score, new.score) == (None, None)
        expected = manifest.composite.intercept + sum(
            weight * getattr(old, f"{name}_expected") for name, weight in manifest.composite.weights.items()
        )
        assert new.composite_score == pytest.approx(expected, abs=1e-3)
    # On the scale of the feedback, around its mean: least squares.
    assert np.mean([new.composite_score for new in weighted]) == pytest.approx(57.5, abs=0.01)
    said = capsys.readouterr().out
    assert f"{COUNT} images of {COUNT} sources against mos; left out: 1 without mos, 0 without" in said
    assert "(chosen)" in said
    assert "Best single input: " in said
    assert "composite_score is filled by templates mix." in said


def test_what_a_pipeline_run_wrote_is_joined_by_image(artefact: Artefact, data: Path, tmp_path: Path) -> None:
    from training.composite import fit_composite

    revision = read_manifest(artefact.adapter)[1]
    codes = write_predictions(tmp_path / "run/scores/date=2026-01-02/a.parquet", data, revision)
    assert run(artefact, data, tmp_path / "out", "--predictions", str(tmp_path / "run")) == 0
    found = read_manifest(tmp_path / "out")[0].composite
    columns = {name.removesuffix("_expected"): values.astype(float) for name, values in codes.items()}
    feedback = np.array([note.mos for note in notes()[:COUNT]], dtype=float)
    assert found == fit_composite(columns, feedback, np.arange(COUNT)).weights


def test_images_without_a_prediction_stop_the_fit_unless_allowed(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    revision, file = read_manifest(artefact.adapter)[1], tmp_path / "a.parquet"
    write_predictions(file, data, revision)
    table = pq.read_table(file)
    pq.write_table(table.slice(2), file)  # row 0 is there in its older generation
    with pytest.raises(ConfigurationError, match=r"no score of 1 of 12 images, the first .*1\.png"):
        run(artefact, data, tmp_path / "out", "--predictions", str(file))
    assert not (tmp_path / "out").exists()
    assert run(artefact, data, tmp_path / "out", "--predictions", str(file), "--allow-failures") == 0
    assert "11 images of 11 sources" in capsys.readouterr().out


def test_attributes_that_lack_for_some_images_are_counted_and_refused(
    artefact: Artefact, data: Path, tmp_path: Path
) -> None:
    revision, file = read_manifest(artefact.adapter)[1], tmp_path / "a.parquet"
    write_predictions(file, data, revision)
    table = pq.read_table(file)
    column = f"{NAMES[0]}_expected"
    values = table[column].to_pylist()
    values[3] = None
    pq.write_table(
        table.set_column(table.schema.get_field_index(column), column, pa.array(values, pa.float32())), file
    )
    with pytest.raises(ConfigurationError, match=f"{NAMES[0]}: 1 of 12 numbers are missing"):
        run(artefact, data, tmp_path / "out", "--predictions", str(file))
    assert not (tmp_path / "out").exists()


def test_predictions_that_are_not_this_adapters_or_no_table_are_refused(
    artefact: Artefact, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.parquet"

    def refused(words: str) -> None:
        with pytest.raises(ConfigurationError, match=words):
            run(artefact, data, tmp_path / "out", "--predictions", str(file))

    refused("cannot be read as Parquet")
    file.write_bytes(b"nothing of the kind")
    refused("cannot be read as Parquet")
    pq.write_table(pa.table({"image_uri": ["a"]}), file)
    refused("column adapter_revision is missing")
    write_predictions(file, data, "another")
    refused("no row of the adapter's revision")
    write_predictions(tmp_path / "more.parquet", data, read_manifest(artefact.adapter)[1], template="high")
    write_predictions(file, data, read_manifest(artefact.adapter)[1])
    pq.write_table(pa.concat_tables([pq.read_table(file), pq.read_table(tmp_path / "more.parquet")]), file)
    refused("several templates: high, mix")
    file.unlink()
    file.mkdir()
    refused("no scores/")


def test_everything_wrong_is_said_before_the_model_is_loaded(
    artefact: Artefact, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "load", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigurationError) as caught:
        run(artefact, data, tmp_path / "full", "--template", "haiku", "--feedback", "composition")
    assert "never changed in place" in caught.value.reasons[0]
    assert "haiku" in caught.value.reasons[1]
    assert "no image of split 'train' has composition" in caught.value.reasons[2]
    with pytest.raises(ConfigurationError) as caught:
        run(artefact, data, tmp_path / "out", "--folds", "1", "--max-components", "0")
    assert len(caught.value.reasons) == 2


def test_images_that_cannot_be_read_stop_the_fit_unless_allowed(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    rows = [note.model_copy(update={"image": str(data / note.image)}) for note in notes()[:COUNT]]
    (tmp_path / "broken.png").write_bytes(b"no image")
    write_annotations(tmp_path, [*rows, Annotation(image="broken.png", mos=40.0)])
    with pytest.raises(ConfigurationError, match=r"broken\.png"):
        run(artefact, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(artefact, tmp_path, tmp_path / "out", "--allow-failures") == 0
    assert "0 without mos, 1 without attributes" in capsys.readouterr().out


def test_earlier_weights_are_replaced(artefact: Artefact, data: Path, tmp_path: Path) -> None:
    assert run(artefact, data, tmp_path / "first") == 0
    again = Artefact(artefact.base, tmp_path / "first")
    assert run(again, data, tmp_path / "second", "--max-components", "1") == 0
    first, second = (
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("first", "second")
    )
    assert len(second["evaluation"]) == 1
    assert {**first, "composite": 0, "evaluation": 0, "files": 0} == {
        **second,
        "composite": 0,
        "evaluation": 0,
        "files": 0,
    }


def test_the_commands_defaults_are_those_of_the_settings() -> None:
    parser = argparse.ArgumentParser()
    add_composite(parser.add_subparsers().add_parser)
    given = vars(parser.parse_args(["composite", "a", "b", "c"]))
    settings = CompositeSettings(Path("a"), Path("b"), Path("c"))
    for field in fields(settings):
        assert str(given[field.name]) == str(getattr(settings, field.name)), field.name
