from __future__ import annotations

import pytest

from model.compiling import compile_template
from model.templates import answer_templates
from model.tokens import IM_END, SPECIALS, TextEncoder
from schemas.attributes import VOCABULARY
from schemas.manifest import ScoreScale
from training.demo.tokenizer import END_OF_TEXT, learn_tokenizer


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(learn_tokenizer())


def test_every_digit_is_a_token_of_its_own(encoder: TextEncoder) -> None:
    texts = [encoder.token_texts[i] for i in encoder.encode("The final score is <6.59> of 10")]
    assert [t for t in texts if any(c.isdigit() for c in t)] == ["6", "5", "9", "1", "0"]


@pytest.mark.parametrize("text", ["Übergrößenträger", "写真は良い", "🙂\x00\t\u200b", "naïve ½", " a\n\nb  "])
def test_any_text_survives(encoder: TextEncoder, text: str) -> None:
    assert encoder.decode(encoder.encode(text)) == text


def test_specials_have_ids_and_are_not_read_out_of_text(encoder: TextEncoder) -> None:
    ids = {encoder.special(name) for name in (END_OF_TEXT, *SPECIALS)}
    assert len(ids) == 7
    assert not ids & set(encoder.encode("<|image_pad|><|im_end|>"))
    assert ids == encoder.special_ids


def test_learning_it_again_gives_the_same_tokeniser() -> None:
    assert learn_tokenizer().to_str() == learn_tokenizer().to_str()


def test_every_template_compiles_and_the_default_answer_is_short(encoder: TextEncoder) -> None:
    for template in answer_templates(VOCABULARY, ScoreScale()).values():
        program = compile_template(template, encoder, encoder.special(IM_END), "segments")
        if template.name == "score_form":
            forced = sum(len(step.forced) for step in program.steps)
            assert forced <= 50
