"""A stage-1 adapter with composite weights in the pipeline: no score, but the column that stands for it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from beam_pipeline.__main__ import main
from model.adapters import read_manifest
from schemas.annotations import Annotation
from tests.beam_pipeline.helpers import rows, write_photos
from tests.training.stage1 import write_stage1_artefact
from training.annotation_files import write_annotations
from training.composite_command import add_composite

pytestmark = [
    pytest.mark.integration,
    # peft asks transformers for a renamed property.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def score(photos: Path, adapter: Path, output: Path) -> list[dict]:
    arguments = ["--input", str(photos), "--adapter", str(adapter), "--output", str(output)]
    assert main([*arguments, "--no-progress"]) == 0
    return rows(output, "scores")


def weigh(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    add_composite(parser.add_subparsers().add_parser)
    options = parser.parse_args(["composite", *arguments])
    assert options.handler(options) == 0


def test_weights_from_a_run_fill_the_composite_column_of_the_next(tmp_path: Path) -> None:
    plain = write_stage1_artefact(tmp_path / "artefact").adapter
    photos = write_photos(tmp_path / "photos", 10)
    notes = [Annotation(image=str(photo), mos=1.0 + at % 4) for at, photo in enumerate(photos)]
    write_annotations(tmp_path / "data", notes)
    first = score(tmp_path / "photos", plain, tmp_path / "first")
    assert {row["composite_score"] for row in first} == {None}
    weighted = str(tmp_path / "weighted")
    weigh(str(plain), str(tmp_path / "data"), weighted, "--predictions", str(tmp_path / "first"))
    manifest, revision = read_manifest(tmp_path / "weighted")
    assert manifest.composite is not None
    second = score(tmp_path / "photos", tmp_path / "weighted", tmp_path / "second")
    assert len(second) == 10
    for row in second:
        assert (row["score"], row["score_std"], row["score_native"]) == (None, None, None)
        assert row["adapter_revision"] == revision
        expected = manifest.composite.intercept + sum(
            weight * row[f"{name}_expected"] for name, weight in manifest.composite.weights.items()
        )
        assert row["composite_score"] == pytest.approx(expected, abs=1e-3)
