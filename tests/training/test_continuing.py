"""Training that goes on from an adapter: its weights are the start, and the manifest says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.adapter_config import SCORE_HEAD_NAME, WEIGHTS_NAME
from model.adapters import read_manifest
from schemas.errors import ConfigurationError
from tests.training.toy import toy_annotations, toy_base, toy_config, toy_files
from training.__main__ import main
from training.annotation_files import write_annotations
from training.config import LoraSettings, StageConfig
from training.runs import RunSettings, run_training

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
# So slow that nothing moves: what is written is where it started.
STILL = 1e-12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    annotations = toy_annotations(6)
    for annotation, content in zip(annotations, toy_files(6), strict=True):
        (folder / annotation.image).write_bytes(content)
    write_annotations(folder, annotations)
    toy_base(folder / "base")
    return folder


def _train(folder: Path, output: Path, config: StageConfig, start: Path | None = None) -> Path:
    settings = RunSettings(
        config=config,
        data=[folder],
        output=output,
        base_model=str(folder / "base"),
        name="toy",
        synthetic=True,
        continue_from=start,
        device="cpu",
    )
    run_training(settings)
    return output


@pytest.mark.parametrize("vision", ["lora", "frozen", "full"])
def test_it_starts_from_the_weights_of_the_adapter_and_its_manifest_says_which(
    vision, folder, tmp_path
) -> None:
    first = _train(folder, tmp_path / "first", toy_config("stage1", vision=vision))
    config = toy_config("stage2", vision=vision, learning_rate=STILL)
    second = _train(folder, tmp_path / "second", config, first)
    one, other = (load_file(adapter / WEIGHTS_NAME) for adapter in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    manifest, _ = read_manifest(second)
    assert manifest.training.initialised_from == read_manifest(first)[1]
    assert manifest.training.stage == "stage2"
    assert read_manifest(first)[0].training.initialised_from == "base"


def test_a_score_head_of_the_same_kind_goes_on_and_another_starts_anew(folder, tmp_path, caplog) -> None:
    direct = {"templates": {"score_direct": 1}, "default_template": "score_direct"}
    bins = {"head": "bins", "bins": 5}
    first = _train(folder, tmp_path / "first", toy_config("stage2", **direct, score=bins))
    same = toy_config("stage2", **direct, score=bins, learning_rate=STILL, seed=9)
    second = _train(folder, tmp_path / "second", same, first)
    one, other = (load_file(adapter / SCORE_HEAD_NAME) for adapter in (first, second))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    more = toy_config("stage2", **direct, score={"head": "bins", "bins": 6}, learning_rate=STILL)
    caplog.set_level("INFO", logger="training")
    third = _train(folder, tmp_path / "third", more, first)
    assert "with a new score head (bins)" in caplog.text
    assert load_file(third / SCORE_HEAD_NAME)["weight"].shape[0] == 6


def test_what_does_not_fit_is_refused_with_every_reason(folder, tmp_path) -> None:
    first = _train(folder, tmp_path / "first", toy_config("stage1"))
    other = toy_config(
        "stage2",
        vision="frozen",
        lora=LoraSettings(rank=4, alpha=16, dropout=0),
        instruction="after_image",
        score={"native_high": 100},
    )
    with pytest.raises(ConfigurationError) as caught:
        _train(folder, tmp_path / "second", other, first)
    said = " ".join(caught.value.reasons)
    assert len(caught.value.reasons) == 5
    assert all(
        part in said for part in ("vision is 'frozen'", "lora.rank is 4", "lora.alpha is 16", "instruction")
    )


def test_an_adapter_of_another_base_is_refused(folder, tmp_path) -> None:
    first = _train(folder, tmp_path / "first", toy_config("stage1"))
    settings = RunSettings(
        config=toy_config("stage2"),
        data=[folder],
        output=tmp_path / "second",
        base_model="embedded",
        name="toy",
        continue_from=first,
    )
    with pytest.raises(ConfigurationError, match="base_model"):
        run_training(settings)


def test_the_command_says_what_a_run_inherits(folder, tmp_path, caplog) -> None:
    first = _train(folder, tmp_path / "first", toy_config("stage1"))
    config = tmp_path / "config.yaml"
    config.write_text(toy_config("stage2").model_dump_json(exclude_none=True))
    command = ["train", str(config), str(folder), "--base-model", str(folder / "base"), "--device", "cpu"]
    caplog.set_level("INFO", logger="training")
    assert main([*command, "--output", str(tmp_path / "second"), "--continue-from", str(first)]) == 0
    revision = read_manifest(first)[1][:12]
    assert f"stage2: starts from adapter toy ({revision})" in caplog.text
    assert "6 images, attributes as given" in caplog.text
