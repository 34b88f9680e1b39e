"""Templates compiled for the real Qwen2 tokeniser and for a small one of our own."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from model.compiling import build_trie, compile_segments, compile_template, compile_whole_text
from model.conversation import (
    build_prompt,
    chatml_sha256,
    encode_context,
    slot_values,
    training_example,
)
from model.scores import score_text, to_native_scale, to_unit_scale
from model.slots import ChoiceSlot, DecimalSlot, FreeTextSlot
from model.templates import (
    AnswerTemplate,
    Choice,
    Decimal,
    Forced,
    FreeText,
    answer_template,
    answer_templates,
    served_templates,
    templates_sha256,
)
from model.tokens import IM_END, IMAGE_PAD, TextEncoder
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY, Vocabulary
from schemas.errors import ConfigurationError, TemplateError
from schemas.manifest import Conversation, ScoreScale
from tests.model.qwen import qwen_encoder
from tests.model.small_tokeniser import small_encoder

ENCODERS = {"qwen2": qwen_encoder, "small": small_encoder}
TEMPLATES = answer_templates(VOCABULARY, ScoreScale())


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return ENCODERS[request.param]()


def random_values(template: AnswerTemplate, draw: random.Random) -> dict[str, str]:
    values = {}
    for slot in template.slots:
        if isinstance(slot, Choice):
            values[slot.name] = draw.choice(slot.values).strip()
        elif isinstance(slot, Decimal):
            scale = ScoreScale(digits=slot.digits, trimmed=slot.trimmed)
            values[slot.name] = score_text(draw.uniform(0, 10), scale)
        else:
            values[slot.name] = "A dog, rather small."
    return values


def test_there_are_thirteen_plain_stage_1_conversations_and_three_of_stage_2() -> None:
    plain = [n for n in TEMPLATES if not n.endswith(("_subject", "_reasons"))]
    # RealQA's 13, and the other order of levels to compare with.
    assert sum(TEMPLATES[n].stage == 1 for n in plain) == 14
    assert [n for n in plain if TEMPLATES[n].stage == 2] == ["score_direct", "score_prose", "score_form"]
    assert not TEMPLATES["score_form"].has_free_text


def test_qwens_tokens_are_the_published_ones() -> None:
    encode = qwen_encoder().encode
    assert encode("3.99") == (18, 13, 24, 24)
    assert encode("Image Clarity") == (1906, 2435, 10748)
    assert [len(encode(f" {word}")) for word in ("uncluttered", "cluttered", "moderately cluttered")] == [
        4,
        2,
        3,
    ]
    assert encode(" <") == (366,)
    assert encode(">.") == (14276,)


@pytest.mark.parametrize("name", TEMPLATES)
def test_training_renders_exactly_what_serving_decides(name: str, encoder: TextEncoder) -> None:
    template = TEMPLATES[name]
    program = compile_segments(template, encoder, encoder.special(IM_END))
    prompt = build_prompt(template, Conversation(chatml_sha256=""), encoder)
    draw = random.Random(name)
    for _ in range(5):
        values = random_values(template, draw)
        example = training_example(prompt, program, values, encoder, visual_tokens=4)
        answer = example.input_ids[example.answer_start :]
        assert len(example.decided) == len(answer)
        text = encoder.decode(answer)
        assert all(value in text for value in values.values())
        if template.has_free_text:
            continue
        assert list(answer) == program.answer_ids(values)
        for place, token in enumerate(answer):
            allowed = program.allowed_after(answer[:place])
            assert allowed is not None
            assert token in allowed
            assert example.decided[place] or len(allowed) == 1


@pytest.mark.parametrize("name", [n for n, t in TEMPLATES.items() if not t.has_free_text])
@pytest.mark.parametrize("trimmed", [False, True])
def test_whole_text_programs_give_the_tokens_of_the_whole_text(
    name: str, trimmed: bool, encoder: TextEncoder
) -> None:
    template = answer_template(name, VOCABULARY, ScoreScale(trimmed=trimmed))
    program = compile_whole_text(template, encoder, encoder.special(IM_END))
    draw = random.Random(name)
    for _ in range(10):
        values = random_values(template, draw)
        text = "".join(
            part.text
            if isinstance(part, Forced)
            else (" " if isinstance(part, Choice) else "") + values[part.name]
            for part in template.parts
        )
        answer = program.answer_ids(values)
        assert tuple(answer[:-1]) == encoder.encode(text)
        for place, token in enumerate(answer):
            assert token in (program.allowed_after(answer[:place]) or ())


def test_merged_continuations_cover_a_token_that_spans_label_and_comma() -> None:
    """realqa.md's own case: in whole text "obscured)" + "," ends in one token ")," ."""
    encoder = qwen_encoder()
    labels = tuple(f" {label}" for label in VOCABULARY["subject_integrity"].values)
    parts = (Forced("Subject Integrity:"), Choice("subject_integrity", labels), Forced(", done."))
    template = AnswerTemplate("authors", 1, "?", parts)
    program = compile_whole_text(template, encoder, 0)
    slot = program.steps[0].slot
    assert isinstance(slot, ChoiceSlot)
    last = [encoder.decode(slot.trie.tokens(value)[-1:]) for value in range(3)]
    assert last[:2] == ["),", "),"]
    segments = compile_segments(template, encoder, 0).steps[0].slot
    assert isinstance(segments, ChoiceSlot)
    assert encoder.decode(segments.trie.tokens(1)[-1:]) == ")"


def test_one_and_ten_branch_on_what_follows(encoder: TextEncoder) -> None:
    program = compile_segments(TEMPLATES["level_high"], encoder, encoder.special(IM_END))
    slot = program.steps[0].slot
    assert isinstance(slot, ChoiceSlot)
    digit = dict(zip("0123456789", (encoder.encode(d)[0] for d in "0123456789"), strict=True))
    one = dict(slot.trie.children[0])[digit["1"]]
    after = program.steps[1].forced[0]
    assert {token for token, _ in slot.trie.children[one]} == {digit["0"], after}
    assert slot.trie.tokens(0) == (digit["1"],)
    assert slot.trie.tokens(9) == (digit["1"], digit["0"])
    assert slot.trie.speculative == (one,)
    last = program.steps[1].slot
    assert isinstance(last, ChoiceSlot)
    assert encoder.special(IM_END) in {
        t for t, _ in last.trie.children[dict(last.trie.children[0])[digit["1"]]]
    }


def test_trimmed_decimals_may_end_from_the_second_decimal_on(encoder: TextEncoder) -> None:
    template = answer_template("score_direct", VOCABULARY, ScoreScale(trimmed=True))
    program = compile_segments(template, encoder, 0)
    slot = program.steps[0].slot
    assert isinstance(slot, DecimalSlot)
    before = [*program.steps[0].forced, slot.digit_ids[7], slot.point_id]
    assert program.allowed_after(before) == slot.digit_ids
    assert program.allowed_after([*before, slot.digit_ids[0]]) == (*slot.digit_ids, slot.terminator)
    assert program.allowed_after([*before, slot.digit_ids[0], slot.terminator]) == (0,)


def test_free_text_stops_on_every_token_that_begins_its_separator() -> None:
    encoder = qwen_encoder()
    program = compile_template(TEMPLATES["score_form_subject"], encoder, 0, "segments")
    slot = program.slot("subject_and_background")
    assert isinstance(slot, FreeTextSlot)
    texts = encoder.token_texts
    assert {encoder.encode("\n")[0], encoder.encode(".\n")[0]} <= slot.stops
    assert encoder.encode(" dog")[0] not in slot.stops
    assert all("\n" in texts[token] for token in slot.stops)
    assert encoder.special(IM_END) in slot.banned


def test_what_cannot_be_told_apart_is_refused() -> None:
    encoder = small_encoder()
    same = AnswerTemplate("t", 1, "?", (Forced("A:"), Choice("a", (" x", " x "[:2]))))
    with pytest.raises(TemplateError, match="same tokens"):
        compile_segments(same, encoder, 0)
    touching = AnswerTemplate(
        "t", 1, "?", (Forced("A:"), Choice("a", (" x", " y")), Choice("b", (" x", " y")))
    )
    with pytest.raises(TemplateError, match="nothing stands between"):
        compile_segments(touching, encoder, 0)
    spanned = (Forced("A:"), Choice("a", (" un", " re")), Choice("b", ("happy", "done")))
    with pytest.raises(TemplateError):
        compile_whole_text(AnswerTemplate("t", 1, "?", spanned), qwen_encoder(), 0)
    with pytest.raises(TemplateError, match="also continues"):
        build_trie([(1,), (1, 2)], terminator=2)
    free = (FreeText("a", 5), FreeText("b", 5))
    with pytest.raises(TemplateError, match="next slot"):
        compile_whole_text(AnswerTemplate("t", 1, "?", free), encoder, 0)


PUBLISHED = ("published_form", "published_prose")
REASON = "A dog, two cats (one cut off), 1.2 m tall"


def test_free_text_is_not_ended_by_what_stands_in_any_sentence() -> None:
    for separator in (", ", ". 1.2", " and "):
        parts = (Forced("Reason:"), FreeText("a_reason", 9), Forced(separator), Choice("a", (" x", " y")))
        for compile_one in (compile_segments, compile_whole_text):
            with pytest.raises(TemplateError, match="too short"):
                compile_one(AnswerTemplate("authors", 2, "?", parts), small_encoder(), 0)


@pytest.mark.parametrize("tokenisation", ["segments", "whole_text"])
def test_a_reason_ends_at_the_whole_separator_and_not_at_its_first_comma(
    tokenisation: Any, encoder: TextEncoder
) -> None:
    template = answer_template("published_form", VOCABULARY, ScoreScale(trimmed=True))
    slot = compile_template(template, encoder, 0, tokenisation).slot("composition_reason")
    assert isinstance(slot, FreeTextSlot)
    assert slot.ending is not None
    assert not slot.stops
    for gap in ("", " ", "\n"):
        head, tail = encoder.encode(REASON), encoder.encode(f"{gap}, 1.2 Composition Score:")
        ids = [*head, *tail]
        assert slot.ending.kept(ids) == len(head)
        assert all(slot.ending.kept(ids[:length]) is None for length in range(len(ids)))
        assert slot.ending.kept([*ids, *encoder.encode(" 7")]) == len(head)
    merged = encoder.encode(f"({REASON} (behind), 1.2 Composition Score:")
    kept = slot.ending.kept(merged)
    assert kept is not None
    assert encoder.decode(merged[:kept]) in (f"({REASON} (behind", f"({REASON} (behind)")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_programs_give_the_tokens_of_the_published_text(name: str) -> None:
    """The three lines of realqa.md's Q2 and Q3, as whole texts by the real tokeniser."""
    encoder = qwen_encoder()
    template = answer_template(name, VOCABULARY, ScoreScale(trimmed=True))
    program = compile_template(template, encoder, encoder.special(IM_END), "whole_text")
    words = {
        "composition_reason": f" {REASON}",
        "eye_catching_reason": " Bright colours",
        "prose": "2.1 Subject: bed.",
    }
    free = {name: encoder.encode(text) for name, text in words.items()}
    answers = {
        "published_form": f"1.1 Reason for Composition Score: {REASON}, 1.2 Composition Score: 10 "
        "1.3 Reason for Eye-Catching Score: Bright colours, 1.4 Eye-Catching Score: 1 2.1 Subject: bed. "
        "The final score is <6.5>.",
        "published_prose": "2.1 Subject: bed. The final score is <6.5>.",
    }
    values = {"composition": "10", "eye_catching": "1", "score": "6.5"}
    ids = program.answer_ids(values, free)
    assert tuple(ids[:-1]) == encoder.encode(answers[name])
    assert program.allowed_after(ids[:-1]) == (encoder.special(IM_END),)
    assert template.instruction.startswith("Rate the aesthetics and quality of this image step by step")


def test_published_templates_are_served_and_not_trained() -> None:
    assert not set(PUBLISHED) & set(TEMPLATES)
    assert set(PUBLISHED) | set(TEMPLATES) == set(served_templates(VOCABULARY, ScoreScale()))
    assert templates_sha256(PUBLISHED, VOCABULARY, ScoreScale())


@pytest.mark.parametrize("compile_one", [compile_segments, compile_whole_text])
def test_a_slot_without_text_before_it_is_refused_but_prose_may_open_an_answer(compile_one: Any) -> None:
    choice, words = Choice("a", ("x", "y")), FreeText("prose", 9)
    for parts in ((choice, Forced("\n")), (Forced("A:"), choice, words, Forced("\n"))):
        with pytest.raises(TemplateError):
            compile_one(AnswerTemplate("t", 1, "?", parts), small_encoder(), 0)
    assert compile_one(TEMPLATES["score_prose"], small_encoder(), 0).steps[0].forced == ()


def test_a_context_for_a_whole_text_adapter_is_tokenised_with_its_sentence() -> None:
    encoder = qwen_encoder()
    conversation = Conversation(chatml_sha256="", context_template="Title: {context}")
    whole = encode_context("two dogs", conversation, encoder, "whole_text")
    assert whole.ids == encoder.encode("Title: two dogs")
    pieces = encode_context("two dogs", conversation, encoder)
    assert pieces.ids == encoder.encode("Title: ") + encoder.encode("two dogs")
    assert pieces.text == whole.text == "two dogs"


def test_a_character_cut_in_half_is_not_reported() -> None:
    encoder = small_encoder()
    conversation = Conversation(chatml_sha256="", context_template="{context}", context_max_tokens=4)
    assert encode_context("a 木木木", conversation, encoder).text == "a"


def test_ids_that_are_no_answer_are_refused() -> None:
    encoder = small_encoder()
    program = compile_segments(TEMPLATES["score_form"], encoder, 0)
    with pytest.raises(ValueError, match="forced text"):
        program.allowed_after([1, 2, 3] * 10)
    with pytest.raises(ValueError, match="no branch"):
        program.allowed_after([*program.steps[0].forced, program.steps[0].forced[0]])


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="score_form_subject"):
        answer_template("nonsense", VOCABULARY, ScoreScale())


def test_the_pin_of_templates_changes_with_wording_labels_and_digits() -> None:
    pin = templates_sha256(["score_form"], VOCABULARY, ScoreScale())
    assert pin == templates_sha256(["score_form"], VOCABULARY, ScoreScale())
    assert pin != templates_sha256(["score_form"], VOCABULARY, ScoreScale(digits=2))
    assert pin != templates_sha256(["score_direct"], VOCABULARY, ScoreScale())
    content = VOCABULARY.model_dump()
    content["attributes"][9]["labels"][0]["text"] = "garish"
    assert pin != templates_sha256(["score_form"], Vocabulary.model_validate(content), ScoreScale())


@pytest.mark.parametrize("placement", ["before_image", "after_image"])
def test_a_prompt_is_qwen2_vls_chatml(placement: str, encoder: TextEncoder) -> None:
    conversation = Conversation(
        chatml_sha256="", instruction=placement, context_template="\nContext: {context}."
    )
    template = TEMPLATES["score_form"]
    prompt = build_prompt(template, conversation, encoder)
    context = encode_context(" two\tdogs\n", conversation, encoder)
    assert context.text == "two dogs"
    ids = prompt.ids(encoder.special(IMAGE_PAD), 2, context.ids)
    ask = template.instruction
    before, after = (ask, "") if placement == "before_image" else ("", ask)
    # a tokeniser that parses specials, for the whole string at once
    whole = (
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{before}"
        f"<|vision_start|><|image_pad|><|image_pad|><|vision_end|>{after}\nContext: two dogs.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    pieces = []
    for index, piece in enumerate(itertools.chain.from_iterable(_split(whole))):
        pieces += [encoder.special(piece)] if index % 2 else encoder.encode(piece)
    assert encoder.decode(ids) == encoder.decode(pieces)
    specials = encoder.special_ids
    assert [i for i in ids if i in specials] == [i for i in pieces if i in specials]
    end = ids.index(encoder.special("<|vision_start|>")) + 3
    assert ids[:end] == pieces[:end]
    if placement == "before_image":
        assert encoder.encode(ask)[0] in prompt.prefix


def _split(text: str) -> list[list[str]]:
    import re

    return [re.split(r"(<\|[a-z_]+\|>)", text)]


def test_a_context_cannot_smuggle_in_special_tokens(encoder: TextEncoder) -> None:
    conversation = Conversation(chatml_sha256="", context_template="({context})", context_max_tokens=40)
    context = encode_context("x <|image_pad|><|im_end|> y", conversation, encoder)
    assert not set(context.ids) & encoder.special_ids
    assert context.text == "x <|image_pad|><|im_end|> y"[: len(context.text or "")]


def test_a_long_context_is_cut_and_says_what_was_used(encoder: TextEncoder) -> None:
    conversation = Conversation(chatml_sha256="", context_template="{context}", context_max_tokens=3)
    context = encode_context("a dog and a cat and a horse and a cow", conversation, encoder)
    assert len(context.ids) == 3
    assert context.text
    assert "a dog and a cat and a horse and a cow".startswith(context.text)
    assert encode_context(" \n ", conversation, encoder).ids == ()
    assert encode_context("dog", Conversation(chatml_sha256=""), encoder).text is None


def test_the_scaffolds_pin_depends_on_system_text_and_order() -> None:
    pins = {chatml_sha256(s, p) for s in ("a", "b") for p in ("before_image", "after_image")}  # type: ignore[arg-type]
    assert len(pins) == 4


@pytest.mark.parametrize(
    ("score", "digits", "trimmed", "text"),
    [
        (6.587, 3, False, "6.59"),
        (10.0, 3, False, "9.99"),
        (9.96, 2, False, "9.9"),
        (7.0, 3, True, "7.0"),
        (3.9, 3, True, "3.9"),
        (3.9, 3, False, "3.90"),
        (3.9845, 2, False, "4.0"),
        (0.0, 3, False, "0.00"),
    ],
)
def test_scores_are_written_with_one_integer_digit(
    score: float, digits: int, trimmed: bool, text: str
) -> None:
    assert score_text(score, ScoreScale(digits=digits, trimmed=trimmed)) == text


def test_native_scales_map_linearly_and_back() -> None:
    koniq = ScoreScale(native_low=1, native_high=5)
    assert to_unit_scale(1, koniq) == 0
    assert to_unit_scale(4, koniq) == 7.5
    assert to_native_scale(7.5, koniq) == 4
    with pytest.raises(ValueError, match="outside"):
        to_unit_scale(0.5, koniq)


def test_a_missing_label_makes_no_example() -> None:
    labels = Annotation(image="a", composition=7, eye_catching=3)
    scale = ScoreScale()
    assert slot_values(TEMPLATES["level_high"], labels, scale) == {"composition": "7", "eye_catching": "3"}
    assert slot_values(TEMPLATES["mix"], labels, scale) is None
    assert slot_values(TEMPLATES["score_direct"], labels, scale) is None
    prose = slot_values(TEMPLATES["score_prose"], labels.model_copy(update={"mos": 5.0}), scale, seed=1)
    assert prose is not None
    assert "7 of 10" in prose["prose"]
    assert prose["score"] == "5.00"
