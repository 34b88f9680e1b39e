"""What can be read out of freely written answers, and what is a failure and why."""

from __future__ import annotations

import pytest

from model.templates import answer_template
from schemas.attributes import VOCABULARY
from schemas.manifest import ScoreScale
from training.evaluation import ParsedTarget
from training.free_answers import (
    ReadAnswer,
    WrittenAnswer,
    asked_targets,
    count_failures,
    read_answer,
    spelled_out,
)

FORM = answer_template("score_form", VOCABULARY, ScoreScale())
DIRECT = answer_template("score_direct", VOCABULARY, ScoreScale())
WHOLE = {
    "composition": 7,
    "eye_catching": 3,
    "subject_integrity": "partially complete (slightly cut off or slightly obscured)",
    "subject_clutter": "uncluttered",
    "background_clutter": "moderately cluttered",
    "level_shot": "taken straight",
    "image_clarity": "slightly blurry",
    "exposure": "properly exposed",
    "saturation": "oversaturated",
}
FILLED = """Composition Score: 7
Eye-Catching Score: 3
Subject Integrity: partially complete (slightly cut off or slightly obscured)
Subject Clutter: uncluttered
Background Clutter: moderately cluttered
Level Shot: taken straight
Image Clarity: slightly blurry
Exposure: properly exposed
Saturation: oversaturated
The final score is <6.59>."""
MARKDOWN = """Here is my assessment.

### **Composition Score:** 7/10
- **Eye catching**: 3 out of 10 (dull)
1. *Subject integrity* - partially complete
2. Subject Clutter (one value): **Uncluttered.**
| Background Clutter | moderately cluttered |
"level_shot": "taken  straight",
The image clarity is slightly blurry, with some noise.
Exposure:
Properly exposed - nothing is burnt out
`Saturation`: `oversaturated`
**Final Score: 6.59/10**"""
ONE_LINE = (
    "1.1 Reason for Composition Score: 3 lines lead in, 1.2 Composition Score: 7, 1.3 Reason for "
    "Eye-Catching Score: dull, 1.4 Eye-Catching Score: 3, Subject Integrity: partially complete, "
    "Subject Clutter: uncluttered, Background Clutter: moderately cluttered, Level Shot: taken straight, "
    "Image Clarity: slightly blurry, Exposure: properly exposed, Saturation: oversaturated. "
    "The final score is <6.59>."
)


def read(text: str, *, complete: bool = True, template=FORM) -> ReadAnswer:
    return read_answer(WrittenAnswer(text, complete), template, VOCABULARY)


@pytest.mark.parametrize("text", [FILLED, MARKDOWN, ONE_LINE, FILLED.upper()])
def test_the_form_is_read_whole_whatever_its_dress(text: str) -> None:
    assert read(text) == ReadAnswer(6.59, WHOLE, {})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("It is a nice picture", "missing"),
        ("Exposure: good", "not_allowed"),
        ("Exposure: overexposed, underexposed, or properly exposed", "not_allowed"),
        ("Exposure: overexposed or underexposed", "not_allowed"),
        ("Exposure: overexposed/underexposed", "not_allowed"),
        ("Exposure: not overexposed", "not_allowed"),
        ("Exposure: properly exposedness", "not_allowed"),
        ("Reason for Exposure: overexposed", "missing"),
    ],
)
def test_a_label_that_was_not_said_is_never_made_up(line: str, reason: str) -> None:
    found = read(line)
    assert "exposure" not in found.values
    assert found.failures["exposure"] == reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", 1),
        ("10", 10),
        ("7.0", 7),
        ("7/10", 7),
        ("7.5", "not_allowed"),
        ("seven", "not_allowed"),
        ("an integer from 1 to 10", "not_allowed"),
        ("1-10", "not_allowed"),
        ("7 to 8", "not_allowed"),
        ("85%", "not_allowed"),
        ("1,000", "not_allowed"),
        ("0", "out_of_range"),
        ("-3", "out_of_range"),
        ("11", "out_of_range"),
        ("4/5", "out_of_range"),
    ],
)
def test_integers_are_read_but_never_rounded_or_clipped(value: str, expected: int | str) -> None:
    found = read(f"Composition Score: {value}")
    assert found.values.get("composition", found.failures.get("composition")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The final score is <0.00>.", 0.0),
        ("The overall aesthetic rating: 10", 10.0),
        ("The score of this image is 6.5.", 6.5),
        ("Final score: 6,59", "not_allowed"),
        ("The final score is high", "not_allowed"),
        ("The final score is 65.9", "out_of_range"),
        ("The final score is 65.9 out of 100", "out_of_range"),
        ("The final score is -1", "out_of_range"),
        ("Score me", "missing"),
        ("I count 2 trees and give it a 7", "missing"),
        ("I would give it 7 out of 10.", 7.0),
    ],
)
def test_a_score_is_read_where_it_is_named_or_the_only_number(text: str, expected: float | str) -> None:
    found = read(text, template=DIRECT)
    assert (found.failures["score"] if found.score is None else found.score) == expected


def test_beside_attributes_a_number_is_no_score_unless_it_is_called_one() -> None:
    assert read("Exposure: overexposed. 7").failures["score"] == "missing"


def test_the_first_mention_with_an_allowed_value_counts() -> None:
    found = read("A long exposure is used. Exposure: overexposed. Exposure: underexposed.")
    assert found.values["exposure"] == "overexposed"


def test_the_last_word_of_an_answer_that_was_cut_off_does_not_count() -> None:
    text = "Composition Score: 7\nThe final score is <1"
    assert read(text).score == 1
    cut = read(text, complete=False)
    assert cut.score is None
    assert cut.values == {"composition": 7}


def test_failures_are_counted_by_target_and_reason_and_by_answer() -> None:
    texts = [FILLED, FILLED.replace("<6.59>", "<66>"), "no", FILLED.replace("oversaturated", "vivid")]
    written = [WrittenAnswer(text, complete=text != "no") for text in texts]
    parsing = count_failures(
        written, [read_answer(one, FORM, VOCABULARY) for one in written], asked_targets(FORM), 512
    )
    assert (parsing.answers, parsing.failed, parsing.cut_off) == (4, 3, 1)
    by_target = {one.target: one for one in parsing.targets}
    assert by_target["score"] == ParsedTarget("score", missing=1, not_allowed=0, out_of_range=1)
    assert by_target["saturation"] == ParsedTarget("saturation", missing=1, not_allowed=1, out_of_range=0)
    assert by_target["exposure"].failed == 1
    assert set(by_target) == {*WHOLE, "score"}


def test_an_untuned_base_is_told_every_title_every_label_and_the_last_line() -> None:
    told = spelled_out(FORM)
    assert told.startswith(FORM.instruction)
    for attribute in VOCABULARY.evaluated:
        assert f"\n{attribute.title}: {{" in told
        if attribute.kind == "choice":
            assert "; ".join(attribute.values) in told
    assert told.endswith("\nThe final score is <{a number from 0.00 to 9.99, higher is better}>.")


def test_the_form_that_is_spelled_out_holds_no_value_that_an_echo_could_be_taken_for() -> None:
    echo = read(spelled_out(FORM))
    assert (echo.score, echo.values) == (None, {})
