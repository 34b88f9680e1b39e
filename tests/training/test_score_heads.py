"""Every score head: trained, written, served by the same scorer, and the same numbers on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from model.adapter_config import SCORE_HEAD_NAME
from model.adapters import SCORE_HEAD_MODULE, read_manifest, save_adapter, verify_adapter
from model.backbone import EMBEDDED_BASE, load_base, load_tokenizer
from model.decisions import ReadoutDecision
from model.score_heads import build_head
from model.scorer import Scorer
from model.scores import class_values, to_unit_scale
from model.tokens import IMAGE_PAD, TextEncoder
from schemas.errors import ConfigurationError, ManifestMismatchError
from schemas.manifest import READOUT_HEADS, ImageRule, ScoreScale
from schemas.records import Prediction
from tests.training.pictures import toy_picture
from tests.training.toy import png, toy_annotations, toy_base, toy_config, toy_files, toy_images
from training.answer_loss import answer_outputs
from training.config import LoraSettings, StageConfig
from training.data import Collator, LabelledImages
from training.stages import (
    AdapterWords,
    adapter_manifest,
    conversations,
    score_objective,
    train_stage,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

HEADS = ("digits", "levels", "soft_levels", "bins", "regression", "mlp")
WORDS = AdapterWords("toy", "a toy", "toy-base", synthetic=True)
FILES = toy_files()
WORDS_OF_ONE_TOKEN = ["empty", "low", "middle", "high", "full"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return toy_base(tmp_path_factory.mktemp("base"))


def _config(head: str, **changes: object) -> StageConfig:
    template = str(changes.pop("template", "score_direct"))
    score = {"head": head, "bins": 7, "hidden_width": 16, "level_words": WORDS_OF_ONE_TOKEN}
    return toy_config(
        "stage2", **{"templates": {template: 1}, "default_template": template, "score": score, **changes}
    )


def _trained(config: StageConfig, base: Path, adapter: Path) -> PeftModel:
    images = toy_images()
    trained, _ = train_stage(config, base, images)
    save_adapter(adapter, trained, None, adapter_manifest(config, base, images, WORDS))
    return trained


def _scorer(adapter: Path, base: Path) -> Scorer:
    return Scorer.load(adapter, base_model=str(base), device="cpu")


@pytest.mark.parametrize("template", ["score_direct", "score_form"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_trained_written_and_served(head, template, base, tmp_path) -> None:
    _trained(_config(head, template=template), base, tmp_path / "adapter")
    manifest, _ = read_manifest(tmp_path / "adapter")
    assert manifest.score.head == head
    assert (SCORE_HEAD_NAME in manifest.files) is (head in READOUT_HEADS)
    scorer = _scorer(tmp_path / "adapter", base)
    for prediction in scorer.score(FILES):
        assert 0 <= prediction.score < 10
        assert prediction.score_native == pytest.approx(prediction.score)
        assert (prediction.score_std is None) is (head in ("regression", "mlp"))
        assert (prediction.score_greedy is None) is (head in ("regression", "mlp"))
        assert (prediction.exposure is None) is (template == "score_direct")
        by_tokens = template == "score_form" or head not in READOUT_HEADS
        assert (prediction.format_mass is not None) is by_tokens
    assert head != "regression" or "without a standard deviation" in scorer.describe()


@pytest.mark.parametrize("head", ["soft_levels", "bins", "regression", "mlp"])
def test_serving_reads_what_training_read(head, base, tmp_path) -> None:
    """The same image, teacher-forced through the unmerged adapter, and decoded from the written one."""
    config = _config(head, context_share=0.0)
    trained = _trained(config, base, tmp_path / "adapter")
    images = toy_images()
    encoder = TextEncoder(load_tokenizer(base))
    objective = score_objective(config, encoder, images)
    dataset = conversations(config, encoder, images)
    batch = Collator(0, encoder.special(IMAGE_PAD), 1.0)([dataset[i] for i in range(len(images))])
    with torch.no_grad():
        outputs = answer_outputs(trained.eval(), batch, objective)
        logits = outputs.scores
    assert logits is not None
    scorer = _scorer(tmp_path / "adapter", base)
    order = [planned.image for planned in dataset.plan[: len(images)]]
    decisions = scorer.decide([scorer.prepare(FILES[image]) for image in order])
    (decided,) = decisions.slots
    if isinstance(decided, ReadoutDecision):
        torch.testing.assert_close(decided.outputs, logits, rtol=0, atol=2e-5)
    else:
        torch.testing.assert_close(decided.probabilities, logits.softmax(1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_to_tell_dark_pictures_from_bright_ones(head, tmp_path) -> None:
    """On the embedded base, which can see: a random one cannot."""
    files = [png(toy_picture(n, 112, 140) // (6 if n % 2 == 0 else 1)) for n in range(6)]
    annotations = [
        label.model_copy(update={"mos": mos, "mos_std": 0.8, "context": None})
        for label, mos in zip(toy_annotations(), [1.0, 9.0] * 3, strict=True)
    ]
    rule = ImageRule(min_pixels=6272, max_pixels=12544)
    images = LabelledImages(annotations, files.__getitem__, rule)
    config = _config(
        head,
        steps=30,
        batch_size=6,
        image=rule,
        vision="frozen",
        learning_rate=5e-3,
        lora=LoraSettings(rank=8, alpha=16),
        forced_token_weight=0.02,
    )
    trained, _ = train_stage(config, EMBEDDED_BASE, images)
    save_adapter(tmp_path / "adapter", trained, None, adapter_manifest(config, EMBEDDED_BASE, images, WORDS))
    found = _scorer(tmp_path / "adapter", EMBEDDED_BASE).score(files)
    said = [prediction.score for prediction in found]
    assert max(said[0::2]) + 2 < min(said[1::2]), said


def test_an_answer_read_off_a_hidden_state_costs_one_pass_of_the_language_model(base, tmp_path) -> None:
    _trained(_config("mlp"), base, tmp_path / "adapter")
    scorer = _scorer(tmp_path / "adapter", base)
    prepared = [scorer.prepare(file) for file in FILES]
    scorer.predict(prepared)  # the shared prefix is computed once
    passes = []
    scorer.decoder.model.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    scorer.predict(prepared)
    assert len(passes) == 1


@pytest.mark.parametrize("head", ["bins", "mlp", "levels"])
def test_a_prediction_does_not_depend_on_its_neighbours(head, base, tmp_path) -> None:
    _trained(_config(head, template="score_form"), base, tmp_path / "adapter")
    scorer = _scorer(tmp_path / "adapter", base)
    alone = [scorer.score([file])[0].score for file in FILES]
    assert [found.score for found in scorer.score(FILES[::-1])][::-1] == pytest.approx(alone, abs=1e-4)


def test_plain_peft_loads_an_adapter_with_a_head_and_misses_nothing(base, tmp_path, recwarn) -> None:
    _trained(_config("bins"), base, tmp_path / "adapter")
    model = load_base(base, torch.device("cpu"), torch.float32)
    PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    assert not [str(w.message) for w in recwarn if "missing" in str(w.message).lower()]
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["modules_to_save"] is None
    assert not any(
        SCORE_HEAD_MODULE in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    )


def test_a_head_that_is_missing_changed_or_of_another_shape_is_refused(base, tmp_path) -> None:
    adapter = tmp_path / "adapter"
    _trained(_config("bins"), base, adapter)
    file = adapter / SCORE_HEAD_NAME
    state = load_file(file)
    manifest, _ = read_manifest(adapter)
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    assert any("changed since training" in problem for problem in verify_adapter(adapter, manifest))
    file.unlink()
    assert any("is missing" in problem for problem in verify_adapter(adapter, manifest))
    with pytest.raises(ManifestMismatchError, match="is missing"):
        _scorer(adapter, base)
    headless = manifest.model_copy(
        update={"files": {k: v for k, v in manifest.files.items() if "head" not in k}}
    )
    assert any("needs weights of its own" in problem for problem in verify_adapter(adapter, headless))


def test_an_adapter_is_not_written_with_a_head_that_its_manifest_does_not_name(base, tmp_path) -> None:
    images, config = toy_images(), _config("bins")
    trained, _ = train_stage(config, base, images)
    other = adapter_manifest(config, base, images, WORDS).model_copy(update={"score": ScoreScale()})
    with pytest.raises(ManifestMismatchError, match="has no weights of its own"):
        save_adapter(tmp_path / "adapter", trained, None, other)


@pytest.mark.parametrize("head", ["regression", "mlp"])
def test_a_number_starts_in_the_middle_of_the_range(head) -> None:
    made = build_head(ScoreScale(head=head), 8)
    assert made is not None
    assert torch.allclose(made(torch.randn(4, 8) * 30), torch.full((4, 1), 0.5))


def test_soft_levels_are_not_learnt_as_one_word(base) -> None:
    images = toy_images()
    dataset = conversations(_config("soft_levels"), TextEncoder(load_tokenizer(base)), images)
    row = dataset[0]
    assert row.example.score_start is not None
    assert row.targets[row.example.score_start] is None
    assert row.score == pytest.approx(
        to_unit_scale(images.annotations[dataset.plan[0].image].mos, ScoreScale())
    )


def test_bins_that_learn_distributions_ask_for_deviations(base) -> None:
    labels = [label.model_copy(update={"mos_std": None}) for label in toy_annotations()]
    soft = _config("bins", score_loss={"soft_bins": True})
    with pytest.raises(ConfigurationError, match="6 of 6 labels have no mos_std"):
        train_stage(soft, base, toy_images(annotations=labels))
    assumed = _config("bins", score_loss={"soft_bins": True, "assumed_std": 0.5})
    train_stage(assumed, base, toy_images(annotations=labels))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"score": {"head": "digits", "decoder": "mean"}},
            "decoder of head 'digits' must be one of digit_tree",
        ),
        ({"score": {"head": "levels", "level_words": ["good", "good"]}}, "level_words must differ"),
        ({"score": {"head": ["bins"]}}, "score.head"),
        ({"score": {"head": "levels", "level_words": ["good", "good "]}}, "no blanks around them"),
        ({"score_loss": {"soft_bins": True}}, "soft_bins is for score.head 'bins'"),
        ({"score_loss": {"weight": 2.0}}, "learnt as tokens alone"),
        ({"score": {"head": "bins"}, "score_loss": {"assumed_std": 1.0}}, "nothing here uses the deviation"),
        (
            {"score": {"head": "bins"}, "score_loss": {"fidelity": 1.0}, "micro_batch_size": 1},
            "has no pairs to rank",
        ),
        ({"score_loss": {"fidelity": 1.0}}, "fidelity needs a distribution"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_with_the_reason(changes, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        toy_config("stage2", **changes)


@pytest.mark.parametrize("stage", ["base", "stage1"])
def test_a_head_with_weights_of_its_own_is_trained_in_stage_two_alone(stage) -> None:
    with pytest.raises(ValueError, match="which stage2 alone trains"):
        toy_config(stage, score={"head": "mlp"})


@pytest.mark.parametrize(("head", "decoder"), [("digits", "digit_tree"), ("bins", "mean"), ("mlp", "point")])
def test_a_head_is_read_in_its_own_way_unless_told_otherwise(head, decoder) -> None:
    assert ScoreScale(head=head).decoder == decoder


def test_the_mode_is_read_where_asked_for(base, tmp_path) -> None:
    config = _config("bins", score={"head": "bins", "bins": 5, "decoder": "mode"})
    _trained(config, base, tmp_path / "adapter")
    found: list[Prediction] = _scorer(tmp_path / "adapter", base).score(FILES)
    assert all(prediction.score in class_values(config.score) for prediction in found)
    assert all(prediction.score == prediction.score_greedy for prediction in found)
