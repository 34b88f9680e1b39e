"""The whole chain on public layouts: validate, stage 1, label, stage 2, evaluate, pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from beam_pipeline.__main__ import main as run_pipeline
from model.adapters import read_manifest
from model.backbone import EMBEDDED_BASE
from schemas.attributes import VOCABULARY
from tests.beam_pipeline.helpers import rows
from tests.training.layouts.made import KONIQ_SETS, write_csv
from tests.training.pictures import toy_picture
from tests.training.toy import toy_config
from training.__main__ import main
from training.annotation_files import read_annotations

pytestmark = [
    pytest.mark.integration,
    # peft asks transformers for a renamed property.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]
STEPS = 2


def _picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(toy_picture(seed, 90 + seed, 120)).save(file)


def _write_realqa(folder: Path) -> Path:
    """Conversations as LLaMA-Factory reads them, in our label names: one file a split."""
    rng = np.random.default_rng(0)
    for seed, split in enumerate(("train", "test")):
        records = []
        for number in range(8):
            name = f"images/{split}{number}.png"
            _picture(folder / name, 20 * seed + number)
            said = [f"1.2 Composition Score: {rng.integers(1, 11)}"]
            said.append(f"1.4 Eye-Catching Score: {rng.integers(1, 11)}")
            said += [
                f"{attribute.title}: {rng.choice(attribute.values)}"
                for attribute in VOCABULARY.evaluated
                if attribute.kind == "choice"
            ]
            talk = [
                {"role": "user", "content": "<image>Rate the attributes of this image."},
                {"role": "assistant", "content": ", ".join(said)},
            ]
            records.append({"messages": talk, "images": [name]})
        (folder / f"realqa_{split}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def _write_koniq(folder: Path) -> Path:
    lines = []
    for number in range(18):
        name = f"{number}.jpg"
        _picture(folder / "1024x768" / name, 100 + number)
        votes = np.roll((1, 6, 40, 50, 3), number)
        shares = votes / votes.sum()
        mean = float(shares @ np.arange(1, 6))
        part = "training" if number < 10 else "test"
        lines.append((name, *shares, votes.sum(), 25 * (mean - 1), 0.5, part))
    write_csv(folder / "koniq10k_distributions_sets.csv", KONIQ_SETS, lines)
    return folder


def _config(folder: Path, stage: str) -> str:
    file = folder / f"{stage}.yaml"
    settings = toy_config(stage, steps=STEPS).model_dump(mode="json", exclude_none=True)
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(file)


def test_from_public_layouts_to_a_scored_folder(tmp_path: Path) -> None:
    realqa, koniq, labelled = (str(tmp_path / name) for name in ("realqa", "koniq", "labelled"))
    stage1, stage2 = (str(tmp_path / name) for name in ("stage1", "stage2"))
    assert main(["import", "realqa", str(_write_realqa(tmp_path / "public_realqa")), realqa]) == 0
    assert main(["import", "koniq10k", str(_write_koniq(tmp_path / "public_koniq")), koniq]) == 0
    assert main(["validate", realqa]) == main(["validate", koniq]) == 0
    assert main(["train", _config(tmp_path, "stage1"), realqa, "--output", stage1, "--device", "cpu"]) == 0
    assert main(["label", stage1, koniq, labelled, "--device", "cpu"]) == 0
    assert all(one.saturation and one.mos for one in read_annotations(Path(labelled)))
    assert main(["train", _config(tmp_path, "stage2"), labelled, "--output", stage2, "--device", "cpu"]) == 0
    manifest, revision = read_manifest(Path(stage2))
    assert manifest.training.labelled_by == read_manifest(Path(stage1))[1]
    report = tmp_path / "report.json"
    assert main(["evaluate", stage2, koniq, "--device", "cpu", "--json", str(report)]) == 0
    figures = json.loads(report.read_text())
    assert (figures["mos_low"], figures["mos_high"], figures["evaluation"]["images"]) == (1, 5, 8)
    photos = str(tmp_path / "public_koniq" / "1024x768")
    arguments = ["--input", photos, "--adapter", stage2, "--base-model", str(EMBEDDED_BASE)]
    assert run_pipeline([*arguments, "--output", str(tmp_path / "scored"), "--no-progress"]) == 0
    scored = rows(tmp_path / "scored", "scores")
    assert len(scored) == 18
    assert {row["adapter_revision"] for row in scored} == {revision}
    assert all(0 <= row["score"] < 10 for row in scored)
