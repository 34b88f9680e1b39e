"""An adapter as LLaMA-Factory leaves it, wrapped, served, and loaded by PEFT again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from model.adapter_config import ADAPTER_CONFIG_NAME, PEFT_PREFIX, WEIGHTS_NAME
from model.adapters import read_manifest
from model.scorer import Scorer
from model.tensor_files import old_name
from schemas.errors import ConfigurationError
from tests.model.artefact import Artefact, write_artefact
from tests.model.small_adapters import edit
from tests.odd_files import encoded, picture
from tests.training.test_export import load, logits
from training.export import export_adapter
from training.wrap import MAX_PIXELS, MIN_PIXELS, WrapSettings, wrap_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

OLD_PATTERN = r"^(?!.*(?:patch_embed|merger)).*(?:visual\.blocks|model\.layers)\..*(?:qkv|proj|fc1|fc2)$"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(params=["old layout", "new layout"])
def theirs(request, artefact, tmp_path) -> Path:
    """The artefact's weights as others have them: no manifest, no seal, keys and pattern of their time."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copyfile(artefact.adapter / ADAPTER_CONFIG_NAME, folder / ADAPTER_CONFIG_NAME)
    state = load_file(artefact.adapter / WEIGHTS_NAME)
    if request.param == "old layout":
        state = {PEFT_PREFIX + old_name(key.removeprefix(PEFT_PREFIX)): value for key, value in state.items()}
        edit(folder / ADAPTER_CONFIG_NAME, lambda config: config.update(target_modules=OLD_PATTERN))
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    return folder


def settings(artefact: Artefact, **changes) -> WrapSettings:
    small = {"min_pixels": 784 * 4, "max_pixels": 784 * 16}
    return WrapSettings(**{"base_model": str(artefact.base), "name": "koniq", **small, **changes})


@pytest.mark.parametrize("theirs", ["new layout"], indirect=True)
def test_a_wrapped_adapter_is_served_in_the_authors_conversation(theirs, artefact, tmp_path) -> None:
    wrap_adapter(theirs, tmp_path / "out", settings(artefact, score_range=(1.0, 5.0)))
    scorer = Scorer.load(tmp_path / "out", device="cpu")
    (result,) = scorer.score([encoded(picture(), "PNG")])
    assert result.score is not None
    assert result.score_native == pytest.approx(1 + 0.4 * result.score)
    assert result.composition in range(1, 11)
    assert result.eye_catching in range(1, 11)
    assert result.exposure is None  # their wording is not published: it is somewhere in the free text
    lines = (result.reasons or "").split("\n")
    assert lines[0].startswith("Composition Score: ")
    assert any(line.startswith("Eye-Catching Score: ") for line in lines)
    prose = Scorer.load(tmp_path / "out", template="published_prose", device="cpu")
    assert prose.score([encoded(picture(), "PNG")])[0].score is not None


def test_the_manifest_says_what_realqa_publishes(theirs, artefact, tmp_path) -> None:
    full = settings(artefact, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    wrap_adapter(theirs, tmp_path / "out", full)
    manifest, _ = read_manifest(tmp_path / "out")
    assert manifest.conversation.instruction == "after_image"
    assert manifest.answer.tokenisation == "whole_text"
    assert manifest.answer.default_template == "published_form"
    assert (manifest.score.digits, manifest.score.trimmed) == (3, True)
    assert manifest.image.resize_rule == "nearest_262144"
    assert (manifest.image.min_pixels, manifest.image.max_pixels) == (256 * 784, 512 * 784)
    assert manifest.training.vision == "lora"
    assert not manifest.training.synthetic


def test_weights_are_the_same_and_plain_peft_finds_all_of_them(theirs, artefact, tmp_path) -> None:
    wrap_adapter(theirs, tmp_path / "out", settings(artefact))
    export_adapter(tmp_path / "out", tmp_path / "exported", merge=False)
    peft = PeftModel.from_pretrained(load(artefact.base), str(tmp_path / "exported")).eval()
    expected = logits(Scorer.load(artefact.adapter, device="cpu").decoder.model)
    torch.testing.assert_close(logits(peft), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("theirs", ["new layout"], indirect=True)
def test_a_pickle_is_refused_by_name(theirs, artefact, tmp_path) -> None:
    (theirs / WEIGHTS_NAME).rename(theirs / "adapter_model.bin")
    with pytest.raises(ConfigurationError, match=r"adapter_model\.bin, a pickle"):
        wrap_adapter(theirs, tmp_path / "out", settings(artefact))


@pytest.mark.parametrize("theirs", ["new layout"], indirect=True)
def test_tensors_that_the_base_has_no_place_for_are_refused_and_nothing_is_written(
    theirs, artefact, tmp_path
) -> None:
    state = load_file(theirs / WEIGHTS_NAME)
    extra = {
        key.replace("layers.0.", "layers.9."): value.clone()
        for key, value in state.items()
        if "layers.0." in key
    }
    assert extra
    save_file(state | extra, theirs / WEIGHTS_NAME, metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="unexpected LoRA"):
        wrap_adapter(theirs, tmp_path / "out", settings(artefact))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("theirs", ["new layout"], indirect=True)
def test_a_folder_without_an_adapter_and_an_unsupported_feature_are_refused(
    theirs, artefact, tmp_path
) -> None:
    with pytest.raises(ConfigurationError, match="no readable PEFT adapter"):
        wrap_adapter(tmp_path / "nowhere", tmp_path / "out", settings(artefact))
    edit(theirs / ADAPTER_CONFIG_NAME, lambda config: config.update(use_dora=True))
    with pytest.raises(ConfigurationError, match="use_dora is not supported"):
        wrap_adapter(theirs, tmp_path / "out", settings(artefact))


@pytest.mark.parametrize("theirs", ["new layout"], indirect=True)
def test_an_adapter_of_the_language_model_alone_is_frozen_vision(theirs, artefact, tmp_path) -> None:
    state = {key: value for key, value in load_file(theirs / WEIGHTS_NAME).items() if ".visual." not in key}
    save_file(state, theirs / WEIGHTS_NAME, metadata={"format": "pt"})
    edit(theirs / ADAPTER_CONFIG_NAME, lambda config: config.update(target_modules=r".*layers\.\d+\..*_proj"))
    assert wrap_adapter(theirs, tmp_path / "out", settings(artefact)).training.vision == "frozen"
    config = json.loads((tmp_path / "out" / ADAPTER_CONFIG_NAME).read_text())
    assert all("language_model.layers" in module for module in config["target_modules"])
