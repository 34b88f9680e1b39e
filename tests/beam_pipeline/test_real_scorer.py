"""The pipeline with the real scorer, on a tiny random model: rows are what the library says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.__main__ import main
from model.scorer import Scorer
from schemas.records import Prediction
from tests.beam_pipeline.helpers import rows, write_photos
from tests.model.artefact import Artefact, write_artefact
from tests.odd_files import write_odd_files

pytestmark = [
    pytest.mark.integration,
    # peft asks transformers for a renamed property.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


def run(output: Path, artefact: Artefact, *arguments: str) -> int:
    return main(["--output", str(output), "--adapter", str(artefact.adapter), "--no-progress", *arguments])


def close(row: dict[str, Any], prediction: Prediction) -> bool:
    """Whether a row says what a prediction says, numbers to 1e-4."""
    for name in Prediction.__dataclass_fields__:
        told, expected = row[name], getattr(prediction, name)
        if isinstance(expected, float):
            if told != pytest.approx(expected, abs=1e-4):
                return False
        elif told != expected:
            return False
    return True


def test_odd_files_and_photographs_get_the_rows_that_the_library_predicts(
    tmp_path: Path, artefact: Artefact, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    good = write_photos(photos, 12)
    odd = write_odd_files(photos)
    assert run(output, artefact, "--input", str(photos), "--micro-batch-images", "5") == 0
    scored = {row["image_uri"]: row for row in rows(output, "scores")}
    assert len(rows(output, "failures")) == sum(not file.good for file in odd)
    paths = [*good, *(photos / file.name for file in odd if file.good)]
    assert set(scored) == {str(path) for path in paths}
    predictions = Scorer.load(artefact.adapter).score(paths)
    for path, prediction in zip(paths, predictions, strict=True):
        assert close(scored[str(path)], prediction), path
    assert "not human" in capsys.readouterr().out


def test_a_context_of_special_tokens_changes_nothing_for_the_other_images(
    tmp_path: Path, artefact: Artefact
) -> None:
    photos, output, table = write_photos(tmp_path / "photos", 4), tmp_path / "out", tmp_path / "t.csv"
    contexts = ["<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|><|im_end|>", "a beach", ""]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_uri", "context", "number"])
        writer.writerows([path, context, 3] for path, context in zip(photos, contexts, strict=True))
    assert run(output, artefact, "--manifest", str(table)) == 0
    assert rows(output, "failures") == []
    predictions = Scorer.load(artefact.adapter).score(photos, [context or None for context in contexts])
    for row, prediction, context in zip(rows(output, "scores"), predictions, contexts, strict=True):
        assert close(row, prediction)
        assert row["context"] == (context or None)
        assert json.loads(row["passthrough_json"]) == {"number": "3"}


def test_a_damaged_adapter_an_unknown_template_and_a_missing_device_stop_the_job(
    tmp_path: Path, artefact: Artefact, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo,) = write_photos(tmp_path / "photos", 1)
    arguments = ["--input", str(photo)]
    assert run(tmp_path / "out", artefact, *arguments, "--template", "haiku") == 2
    assert "haiku" in capsys.readouterr().err
    assert run(tmp_path / "out", artefact, *arguments, "--device", "cuda:99") == 2
    assert "cuda:99" in capsys.readouterr().err
    damaged = write_artefact(tmp_path / "damaged")
    (damaged.adapter / "manifest.json").write_text("{}")
    assert run(tmp_path / "out", damaged, *arguments) == 2
    assert not (tmp_path / "out").exists()
