from __future__ import annotations

from typing import Any

import pytest
import yaml

from schemas.manifest import (
    AdapterManifest,
    Answer,
    CompositeWeights,
    Conversation,
    EvaluationResult,
    ImageRule,
    ScoreScale,
    Training,
)
from tests.model.small_adapters import BASE
from training.model_card import model_card

HUB = BASE.model_copy(update={"name": "Qwen/Qwen2-VL-7B-Instruct"})


def manifest(**changes: Any) -> AdapterManifest:
    fields: dict[str, Any] = {
        "name": "mine",
        "base_model": HUB,
        "conversation": Conversation(chatml_sha256="a" * 64),
        "answer": Answer(
            templates=("score_form", "score_direct"), default_template="score_form", templates_sha256="b" * 64
        ),
        "image": ImageRule(min_pixels=200_704, max_pixels=401_408),
        "training": Training(stage="stage2", fingerprint="f" * 64),
        "files": {},
    }
    return AdapterManifest(**{**fields, **changes})


def card(merged: bool = False, **changes: Any) -> str:
    return model_card(manifest(**changes), "e" * 64, merged=merged)


def front_matter(text: str) -> dict[str, Any]:
    before, matter, _ = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(matter)


def test_the_front_matter_names_base_and_library_and_leaves_the_licence_out() -> None:
    matter = front_matter(card())
    assert matter["base_model"] == "Qwen/Qwen2-VL-7B-Instruct"
    assert matter["library_name"] == "peft"
    assert "lora" in matter["tags"]
    assert "license" not in matter
    assert front_matter(card(merged=True))["library_name"] == "transformers"


@pytest.mark.parametrize("name", ["/data/someone/models/qwen", "~/models/qwen", r"C:\models\qwen"])
def test_a_path_of_the_machine_that_trained_is_not_published(name: str) -> None:
    for merged in (False, True):
        text = card(merged, base_model=BASE.model_copy(update={"name": name}))
        assert "base_model" not in front_matter(text)
        assert "`qwen`" in text
        assert "models" not in text


def test_it_says_what_is_predicted_on_which_scale_and_how_it_is_asked() -> None:
    text = card(
        score=ScoreScale(native_low=1, native_high=5, trimmed=True),
        conversation=Conversation(
            chatml_sha256="a" * 64, instruction="after_image", context_template=" Title: {context}"
        ),
        composite=CompositeWeights(intercept=0, weights={"exposure": 1.0}),
    )
    for part in ("1–5 of the training labels", "zeros at the end dropped", "digits", "Composition Score"):
        assert part in text
    assert "<image>Rate the aesthetics and quality of this image step by step with the regular form." in text
    assert "Title: {context}" in text
    assert "The final score is <[score]>." in text
    assert "also trained on `score_direct`" in text
    assert "composite score of exposure" in text


def test_the_pixel_rule_is_told_in_pixels_and_tokens() -> None:
    assert "200,704–401,408 px" in card()
    assert "(256–512 visual tokens)" in card()
    assert "NEAREST" not in card()
    nearest = ImageRule(min_pixels=784, max_pixels=784, resize_rule="nearest_262144")
    assert "NEAREST to at most 262,144 px" in card(image=nearest)


def test_every_figure_stands_with_its_n() -> None:
    found = (
        EvaluationResult(dataset="koniq", target="mos", n=2010, srcc=0.941, plcc=None),
        EvaluationResult(dataset="spaq", target="mos", n=2224, srcc=0.9, plcc=0.9),
    )
    text = card(evaluation=found)
    assert "| koniq | mos | 2010 | 0.941 | – |" in text
    assert "| spaq | mos | 2224 | 0.900 | 0.900 |" in text
    assert "None is recorded" in card()


def test_synthetic_labels_are_said_first_and_only_where_they_are() -> None:
    synthetic = card(training=Training(stage="stage2", fingerprint="f" * 64, synthetic=True))
    assert synthetic.index("synthetic labels") < synthetic.index("## What it predicts")
    assert "synthetic" not in card()


def test_serving_is_three_lines_for_an_adapter_and_none_of_ours_for_merged_weights() -> None:
    assert 'scorer = Scorer.load("THIS_FOLDER", base_model="Qwen/Qwen2-VL-7B-Instruct")' in card()
    assert "PeftModel.from_pretrained" in card()
    assert "Scorer" not in card(merged=True)
    assert "PeftModel" not in card(merged=True)


def test_limits_name_labels_of_ours_and_words_that_are_generated() -> None:
    answer = Answer(
        templates=("score_direct", "score_form_reasons"),
        default_template="score_form_reasons",
        templates_sha256="b" * 64,
    )
    text = card(answer=answer, training=Training(stage="stage2", labelled_by="c" * 64, fingerprint="f" * 64))
    for part in (
        "Level Shot",
        "words are generated",
        "cost one pass a token",
        "another adapter, `cccc",
    ):
        assert part in text
    direct = Answer(templates=("score_direct",), default_template="score_direct", templates_sha256="b" * 64)
    assert "Level Shot" not in card(answer=direct)
    assert "words are generated" not in card(answer=direct)


def test_equal_manifests_give_equal_cards() -> None:
    assert card() == card()
    assert card().endswith(f"`{'e' * 64}`.\n")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("bins", "softmax of its outputs over the bins' middles"),
        ("regression", "ten times its output"),
        ("mlp", "GELU between the layers"),
    ],
)
def test_a_head_that_nobody_writes_is_explained(head: str, said: str) -> None:
    scale = ScoreScale(head=head)
    for merged in (False, True):
        text = card(merged, score=scale)
        assert "score_head.safetensors" in text
        assert said in text
    assert "as text, but for the score" in card(True, score=scale)
    assert ("standard deviation:" in card(score=scale)) is (head == "bins")


def test_levels_are_named() -> None:
    assert "one of the levels bad, poor, fair, good, excellent" in card(score=ScoreScale(head="levels"))
