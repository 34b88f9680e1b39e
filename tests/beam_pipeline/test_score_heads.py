"""Adapters of other score heads go through the same pipeline, with attributes null."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_pipeline.__main__ import main
from model.adapters import save_adapter
from model.scorer import Scorer
from schemas.attributes import VOCABULARY
from tests.beam_pipeline.helpers import rows, write_photos
from tests.training.toy import toy_base, toy_config, toy_images
from training.stages import AdapterWords, adapter_manifest, train_stage

pytestmark = [
    pytest.mark.integration,
    # peft asks transformers for a renamed property.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.mark.parametrize(("head", "decoder"), [("mlp", "point"), ("bins", "mean"), ("soft_levels", "mean")])
def test_rows_are_what_the_library_predicts_and_say_how_the_score_was_read(
    head: str, decoder: str, tmp_path: Path
) -> None:
    base, images = toy_base(tmp_path / "base"), toy_images()
    config = toy_config(
        "stage2", templates={"score_direct": 1}, default_template="score_direct", score={"head": head}
    )
    trained, _ = train_stage(config, base, images)
    words = AdapterWords("toy", "a toy", str(base), synthetic=True)
    save_adapter(tmp_path / "adapter", trained, None, adapter_manifest(config, base, images, words))
    photos = write_photos(tmp_path / "photos", 5)
    output = tmp_path / "out"
    command = ["--input", str(tmp_path / "photos"), "--adapter", str(tmp_path / "adapter")]
    assert main([*command, "--output", str(output), "--no-progress"]) == 0
    predictions = Scorer.load(tmp_path / "adapter").score(photos)
    scored = {row["image_uri"]: row for row in rows(output, "scores")}
    for path, prediction in zip(photos, predictions, strict=True):
        row = scored[str(path)]
        assert row["score"] == pytest.approx(prediction.score, abs=1e-4)
        assert row["decoder"] == decoder
        assert (row["score_std"] is None) is (head == "mlp")
        assert (row["format_mass"] is None) is (head != "soft_levels")
        assert all(row[attribute.name] is None for attribute in VOCABULARY.attributes)
