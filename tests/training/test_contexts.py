from __future__ import annotations

from pathlib import Path

import pytest

from model.templates import answer_template
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.manifest import Conversation, ScoreScale
from training.contexts import (
    conversation_context_problems,
    data_context_problems,
    has_context,
    shown_contexts,
)

TEXTS = ("one", None, "two", "three", " ", "four")


def notes(*texts: str | None, mos: float | None = 5.0) -> list[Annotation]:
    return [Annotation(image=f"{row}.png", mos=mos, context=text) for row, text in enumerate(texts)]


def test_given_is_as_annotated_and_none_is_nothing() -> None:
    assert shown_contexts(notes(*TEXTS), "given") == list(TEXTS)
    assert shown_contexts(notes(*TEXTS), "none") == [None] * len(TEXTS)


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_nobody_keeps_the_own_context_and_nothing_is_lost(seed: int) -> None:
    for count in range(2, 9):
        own = [f"text {number}" for number in range(count)]
        shown = shown_contexts(notes(*own), "shuffled", seed=seed)
        assert sorted(map(str, shown)) == own
        assert all(one != other for one, other in zip(shown, own, strict=True))


def test_shuffled_images_without_context_stay_without() -> None:
    shown = shown_contexts(notes(*TEXTS), "shuffled")
    assert [row for row, text in enumerate(shown) if not (text or "").strip()] == [1, 4]
    assert {shown[row] for row in (0, 2, 3, 5)} == {"one", "two", "three", "four"}


def test_the_same_seed_shuffles_the_same_way() -> None:
    many = notes(*map(str, range(30)))
    assert shown_contexts(many, "shuffled", seed=1) == shown_contexts(many, "shuffled", seed=1)
    assert shown_contexts(many, "shuffled", seed=1) != shown_contexts(many, "shuffled", seed=2)


def test_white_space_is_no_context() -> None:
    assert [has_context(note) for note in notes("words", " \n", "", None)] == [True, False, False, False]


@pytest.mark.parametrize("choice", ["shuffled", "all"])
def test_there_must_be_two_contexts_that_differ(choice: str) -> None:
    for texts in ([None, None, None], ["one", None, None], ["same", "same", " same "]):
        (problem,) = data_context_problems(choice, Path("data"), notes(*texts), fewest_images=0)
        assert problem == f"data: --context {choice} needs two images with different contexts"
    assert data_context_problems(choice, Path("data"), notes("one", "two"), fewest_images=2) == []


def test_scores_by_context_need_opinions_on_images_that_have_one() -> None:
    unrated = [*notes("one", "two", "three", mos=None), *notes(None, None, None)]
    (problem,) = data_context_problems("all", Path("data"), unrated, fewest_images=3)
    assert "mos on 3 images or more" in problem
    assert data_context_problems("shuffled", Path("data"), unrated, fewest_images=3) == []


def test_plain_evaluations_ask_nothing_of_contexts() -> None:
    deaf = Conversation(chatml_sha256="x", context_template=None)
    template = answer_template("mix", VOCABULARY, ScoreScale())
    for choice in ("given", "none"):
        assert data_context_problems(choice, Path("data"), notes(None), fewest_images=3) == []
        assert conversation_context_problems(choice, deaf, template) == []


def test_an_adapter_that_takes_no_context_and_a_template_without_score_are_named() -> None:
    deaf = Conversation(chatml_sha256="x", context_template=None)
    listening = Conversation(chatml_sha256="x", context_template="{context}")
    mix, direct = (answer_template(name, VOCABULARY, ScoreScale()) for name in ("mix", "score_direct"))
    assert conversation_context_problems("all", deaf, mix) == [
        "--context all: the adapter takes no context",
        "--context all: compares scores, and template 'mix' answers none",
    ]
    assert len(conversation_context_problems("shuffled", deaf, mix)) == 1
    assert conversation_context_problems("all", listening, direct) == []
