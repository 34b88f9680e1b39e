"""What others load: plain PEFT the adapter, plain transformers the merged weights, people the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

import training.export as module
from model.adapter_config import ADAPTER_CONFIG_NAME
from model.adapters import read_manifest
from model.scorer import Scorer
from model.tokens import IMAGE_PAD, VISION_END, VISION_START
from schemas.errors import ConfigurationError
from tests.model.artefact import Artefact, write_artefact
from tests.model.small_adapters import edit
from tests.model.small_tokeniser import small_encoder
from tests.model.teacher import random_images
from training.export import export_adapter

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def artefact(tmp_path_factory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    special = small_encoder().special
    image = [special(VISION_START), *[special(IMAGE_PAD)] * 6, special(VISION_END)]
    ids = torch.tensor([[20, 21, *image, 22, 23]])
    patches = random_images([(4, 6)]).pixel_values()
    return model(
        input_ids=ids,
        pixel_values=patches.to(model.dtype),
        image_grid_thw=torch.tensor([[1, 4, 6]]),
        mm_token_type_ids=(ids == special(IMAGE_PAD)).int(),
        attention_mask=torch.ones_like(ids),
    ).logits


def load(folder: Path) -> Qwen2VLForConditionalGeneration:
    return Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def served(artefact: Artefact) -> torch.Tensor:
    """Logits of the model that our own scorer answers with."""
    expected = logits(Scorer.load(artefact.adapter, device="cpu").decoder.model)
    assert (expected - logits(load(artefact.base))).abs().max() > 0.1
    return expected


def test_plain_peft_loads_an_exported_adapter_with_the_logits_that_we_serve(artefact, tmp_path) -> None:
    export_adapter(artefact.adapter, tmp_path / "out", merge=False)
    theirs = PeftModel.from_pretrained(load(artefact.base), str(tmp_path / "out")).eval()
    torch.testing.assert_close(logits(theirs), served(artefact), rtol=0, atol=2e-5)


def test_an_exported_adapter_is_still_ours_with_the_same_revision(artefact, tmp_path) -> None:
    export_adapter(artefact.adapter, tmp_path / "out", merge=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"
    ]  # fmt: skip
    again = Scorer.load(tmp_path / "out", device="cpu")
    assert again.provenance.adapter_revision == read_manifest(artefact.adapter)[1]


def test_an_adapter_is_exported_where_its_base_is_not(artefact, tmp_path) -> None:
    moved = tmp_path / "base"
    shutil.copytree(artefact.base, moved)
    made = write_artefact(tmp_path / "other")
    shutil.rmtree(made.base)
    export_adapter(made.adapter, tmp_path / "out", merge=False)
    assert (tmp_path / "out" / "README.md").exists()
    with pytest.raises(ConfigurationError, match="base model"):
        export_adapter(made.adapter, tmp_path / "merged", merge=True)


def test_transformers_loads_merged_weights_with_the_logits_that_we_serve(artefact, tmp_path) -> None:
    export_adapter(artefact.adapter, tmp_path / "out", merge=True)
    torch.testing.assert_close(logits(load(tmp_path / "out")), served(artefact), rtol=0, atol=2e-5)
    words = AutoTokenizer.from_pretrained(tmp_path / "out")("Composition Score: 7.25")["input_ids"]
    assert tuple(words) == small_encoder().encode("Composition Score: 7.25")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert str(artefact.base) not in (tmp_path / "out" / "config.json").read_text()


def test_merged_weights_take_the_number_format_of_the_base_or_the_one_asked_for(artefact, tmp_path) -> None:
    export_adapter(artefact.adapter, tmp_path / "own", merge=True)
    export_adapter(artefact.adapter, tmp_path / "half", merge=True, dtype="bfloat16")
    dtypes = [json.loads((tmp_path / name / "config.json").read_text())["dtype"] for name in ("own", "half")]
    assert dtypes == ["float32", "bfloat16"]


@pytest.mark.parametrize("merge", [False, True])
def test_nothing_is_exported_over_something(artefact, tmp_path, merge) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="exists already"):
        export_adapter(artefact.adapter, tmp_path, merge=merge)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("merge", [False, True])
def test_an_export_that_fails_leaves_nothing_behind(artefact, tmp_path, monkeypatch, merge) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(module, "model_card", fail)
    with pytest.raises(OSError, match="disk full"):
        export_adapter(artefact.adapter, tmp_path / "out", merge=merge)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_was_changed_is_not_published(artefact, tmp_path) -> None:
    copy = shutil.copytree(artefact.adapter, tmp_path / "copy")
    edit(copy / ADAPTER_CONFIG_NAME, lambda config: config.update(lora_alpha=64))
    with pytest.raises(ConfigurationError, match="changed since training"):
        export_adapter(copy, tmp_path / "out", merge=False)


def test_an_adapter_that_peft_would_silently_pass_over_is_refused(artefact, tmp_path, monkeypatch) -> None:
    """Patterns for old names: our loader maps them, PEFT warns and gives the untuned base."""
    copy = shutil.copytree(artefact.adapter, tmp_path / "copy")
    pattern = r"model\.layers\.\d+\..*_proj|visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
    edit(copy / ADAPTER_CONFIG_NAME, lambda config: config.update(target_modules=pattern))
    monkeypatch.setattr(module, "checked_manifest", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match="target_modules passes over"):
        export_adapter(copy, tmp_path / "out", merge=False)
