from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from model.adapters import check_adapter, read_manifest, save_adapter
from model.backbone import base_identity, load_base, load_tokenizer
from model.resizing import RESIZES
from model.scorer import Scorer
from model.tokens import IMAGE_PAD, TextEncoder
from schemas.errors import ConfigurationError
from tests.model.shapes import meta_model
from tests.model.tiny import tiny_model
from tests.training.pictures import toy_picture
from tests.training.toy import png, toy_annotations, toy_base, toy_config, toy_files, toy_images
from training.answer_loss import answer_loss
from training.data import Collator, ConversationDataset
from training.lora import attach_lora, lora_targets
from training.stages import AdapterWords, adapter_manifest, conversations, fingerprint, train_stage

WORDS = AdapterWords("toy", "a toy", "toy-base", synthetic=True)
IMAGES = toy_images()
ENCODED = png(toy_picture(9, 120, 160))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return toy_base(tmp_path_factory.mktemp("base"))


def test_lora_goes_on_all_linears_of_language_model_and_vision_blocks_and_nowhere_else() -> None:
    model = tiny_model(layers=2)
    language = [
        f"model.language_model.layers.{i}.{name}"
        for i in range(2)
        for name in (
            *(f"self_attn.{p}_proj" for p in "qkvo"),
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        )
    ]
    vision = [
        f"model.visual.blocks.{i}.{name}"
        for i in range(2)
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert sorted(lora_targets(model)) == sorted(language + vision)
    assert sorted(lora_targets(model, "frozen")) == sorted(language)
    assert sorted(lora_targets(model, "full")) == sorted(language)


@pytest.mark.parametrize(("size", "billions"), [("2B", 2.209), ("7B", 8.291)])
def test_lora_at_the_published_sizes_goes_on_196_linears_of_the_language_model_and_128_of_the_vision_blocks(
    size: str, billions: float
) -> None:
    model = meta_model(size)
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)
    targets = lora_targets(model)
    vision = [name for name in targets if name.startswith("model.visual.blocks.")]
    assert (len(targets), len(vision)) == (28 * 7 + 32 * 4, 32 * 4) == (324, 128)
    assert len(lora_targets(model, "frozen")) == 196


@pytest.mark.parametrize("vision", ["lora", "frozen", "full"])
def test_only_what_the_configuration_names_is_trainable(vision) -> None:
    peft = attach_lora(tiny_model(), toy_config("stage1").lora, vision)
    trainable = [name for name, p in peft.named_parameters() if p.requires_grad]
    assert any("language_model" in name and "lora_" in name for name in trainable)
    in_vision = [name for name in trainable if "visual" in name]
    assert bool(in_vision) is (vision != "frozen")
    assert all(("lora_" in name) is (vision == "lora") for name in in_vision)
    assert not any(part in name for name in trainable for part in ("lm_head", "embed_tokens"))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_both_stages_write_an_adapter_that_serving_takes(stage: str, base: Path, tmp_path: Path) -> None:
    config = toy_config(stage)
    trained, _ = train_stage(config, base, IMAGES)
    target = tmp_path / "adapter"
    save_adapter(target, trained, None, adapter_manifest(config, base, IMAGES, WORDS))
    manifest, _ = read_manifest(target)
    check_adapter(target, manifest, base_identity(base, WORDS.base_name))
    assert manifest.training.stage == stage
    assert manifest.training.synthetic
    prediction = Scorer.load(target, base_model=str(base), device="cpu").score([ENCODED])[0]
    assert (prediction.score is None) is (stage == "stage1")
    assert prediction.exposure is not None


def test_pre_training_changes_the_base_by_the_same_path(base: Path) -> None:
    trained, _ = train_stage(toy_config("base"), base, IMAGES)
    assert isinstance(trained, Qwen2VLForConditionalGeneration)
    before = load_base(base, torch.device("cpu"), torch.float32).state_dict()
    changed = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("visual.patch_embed" in name for name in changed)
    assert any("language_model.layers" in name for name in changed)


def test_the_same_seed_gives_the_same_adapter(base: Path) -> None:
    one, two = (train_stage(toy_config("stage2"), base, IMAGES)[0] for _ in range(2))
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_activations_computed_twice_give_the_same_adapter(base: Path, recwarn) -> None:
    plain = toy_config("stage2", batch_size=2)
    twice = plain.model_copy(update={"gradient_checkpointing": True})
    one, other = (train_stage(config, base, IMAGES) for config in (plain, twice))
    assert [point[1] for point in other[1].curves["loss"]] == pytest.approx(
        [point[1] for point in one[1].curves["loss"]], rel=1e-4
    )
    assert not [str(w.message) for w in recwarn if "checkpointing_enable" in str(w.message)]


def test_training_lowers_the_loss_on_what_it_sees(base: Path) -> None:
    config = toy_config("stage2", steps=25, batch_size=4, templates={"score_form": 1})
    encoder = TextEncoder(load_tokenizer(base))
    dataset = conversations(config, encoder, IMAGES)
    batch = Collator(0, encoder.special(IMAGE_PAD), 1.0)([dataset[i] for i in range(4)])
    trained, _ = train_stage(config, base, IMAGES)
    with torch.no_grad():
        before = answer_loss(load_base(base, torch.device("cpu"), torch.float32), batch)
        after = answer_loss(trained, batch)
    assert after < before - 0.3
    assert isinstance(dataset, ConversationDataset)


def test_the_loss_is_that_of_the_answer_tokens_under_ordinary_logits(base: Path) -> None:
    model = load_base(base, torch.device("cpu"), torch.float32)
    encoder = TextEncoder(load_tokenizer(base))
    dataset = conversations(toy_config("stage2"), encoder, IMAGES)
    rows = [dataset[i] for i in range(3)]
    batch = Collator(0, encoder.special(IMAGE_PAD), 0.5)(rows)
    total = weight = 0.0
    for row in rows:
        alone = Collator(0, encoder.special(IMAGE_PAD), 0.5)([row])
        inputs = {k: v for k, v in alone.items() if k not in ("labels", "weights")}
        with torch.no_grad():
            log_p = model(**inputs).logits[0].log_softmax(-1)
        for offset, decided in enumerate(row.example.decided):
            position = row.example.answer_start + offset
            share = 1.0 if decided else 0.5
            total -= share * float(log_p[position - 1, row.example.input_ids[position]])
            weight += share
    with torch.no_grad():
        assert float(answer_loss(model, batch)) == pytest.approx(total / weight, abs=1e-4)


def test_labels_outside_the_vocabulary_stop_before_training(base: Path) -> None:
    first, *others = toy_annotations()
    wrong = toy_images(annotations=[first.model_copy(update={"exposure": "gloomy"}), *others])
    with pytest.raises(ConfigurationError, match=r"0\.png: exposure 'gloomy'"):
        train_stage(toy_config("stage1"), base, wrong)


def test_the_fingerprint_follows_configuration_pixels_and_labels() -> None:
    config = toy_config("stage1")
    first, *others = toy_annotations()
    relabelled = toy_images(annotations=[first.model_copy(update={"mos": 1.0}), *others])
    repainted = toy_images(files=[png(toy_picture(99, 56, 84)), *toy_files()[1:]])
    prints = {
        fingerprint(config, IMAGES),
        fingerprint(toy_config("stage1", seed=5), IMAGES),
        fingerprint(config, IMAGES[1:]),
        fingerprint(config, relabelled),
        fingerprint(config, repainted),
    }
    assert len(prints) == 5
    assert fingerprint(config, IMAGES) == fingerprint(toy_config("stage1"), toy_images())


@pytest.mark.parametrize("decoder", RESIZES)
def test_the_manifest_names_the_image_decoder_that_training_used(base: Path, decoder: str) -> None:
    config = toy_config("stage2")
    config = config.model_copy(update={"image": config.image.model_copy(update={"image_decoder": decoder})})
    assert adapter_manifest(config, base, IMAGES, WORDS).image == config.image


def test_a_base_has_no_manifest(base: Path) -> None:
    with pytest.raises(ValueError, match="no manifest"):
        adapter_manifest(toy_config("base"), base, IMAGES, WORDS)


def test_full_vision_is_saved_with_the_adapter(base: Path, tmp_path: Path) -> None:
    config = toy_config("stage2", vision="full")
    trained, _ = train_stage(config, base, IMAGES)
    save_adapter(tmp_path / "adapter", trained, None, adapter_manifest(config, base, IMAGES, WORDS))
    score = Scorer.load(tmp_path / "adapter", base_model=str(base), device="cpu").score([ENCODED])[0].score
    assert score is not None
    assert math.isfinite(score)
