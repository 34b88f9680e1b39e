"""Answers that a model wrote freely: the form that is asked for, and what can be read out of a text.

Reading is lenient about dress (capitals, markdown, quotes, "7/10", prose around) and strict about content:
nothing is guessed, rounded or taken from the nearest label. What cannot be read has a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from model.templates import SCORE, AnswerTemplate, Choice, Decimal, Forced, FreeText, Part
from schemas.attributes import INTEGER_HIGH, INTEGER_LOW, Attribute, Vocabulary
from training.evaluation import FailureReason, ParsedTarget, Parsing

SCORE_LOW, SCORE_HIGH = 0.0, 10.0
"""Both ends are read: a model that was never trained on [0, 10) may write 10."""

_DRESS = re.compile(r"[*_`\"'“”‘’<>\[\]{}#]")
_DIVIDES = r"(?:\s*\([^()\n]*\))?\s*(?:[:：=|→]|\s[-–—]\s|\bis\b)[\s:|]*"
_NUMBER = re.compile(
    r"(?<![\w.])(?P<number>[-−]?\d+(?:\.\d+)?)(?![.,]?\d)"
    r"(?:\s*(?:/|out\s+of|of)\s*(?P<whole>\d+(?:\.\d+)?)(?![.,]?\d))?"
    r"(?!\s*(?:%|(?:[-–—~/]|to|or)\s*\d))"
)
_SCORE_MENTION = re.compile(
    r"\b(?:(?:final|overall)(?:\s+\w+){0,2}\s+(?:score|rating)|score\s+of\s+this\s+(?:image|picture|photo))"
    rf"(?:{_DIVIDES}|\s+)",
    re.IGNORECASE,
)
_LABEL_ENDS = re.compile(r"\s*(?:$|[.,;:!)(|\n]|\s[-–—]\s)")
_NEXT_OPTION = re.compile(r"\s*(?:[,;|/]|\bor\b)+\s*(?:or\s+)?")
_LAST_WORD = re.compile(r"\S*$")
_REASON = re.compile(r"\breasons?\s+for\s+(?:the\s+)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """What a model wrote about one image, or one frame of a video.

    Attributes:
        text: The words.
        complete: Whether it ended by itself, and not at the limit of new tokens.
    """

    text: str
    complete: bool


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What could be read out of an answer.

    Attributes:
        score: 0–10; None where it was not asked for or cannot be read.
        values: Value by attribute: a label as the vocabulary spells it, or an integer.
        failures: Reason by target, for what was asked for and cannot be read.
    """

    score: float | None
    values: Mapping[str, str | int]
    failures: Mapping[str, FailureReason]


def spelled_out(template: AnswerTemplate) -> str:
    """A template's question with its answer's form, for a model that was not trained on it."""
    form = "".join(map(_hole, template.parts))
    return (
        f"{template.instruction} Answer in exactly this form and write nothing else, every pair of braces "
        f"replaced by your own value:\n{form}"
    )


def asked_targets(template: AnswerTemplate) -> tuple[str, ...]:
    """What an answer must hold to be read whole: the attributes in order, then ``score``."""
    return tuple(slot.name for slot in template.slots if not isinstance(slot, FreeText))


def read_answer(written: WrittenAnswer, template: AnswerTemplate, vocabulary: Vocabulary) -> ReadAnswer:
    """Read the values that a template asks for out of what was written.

    Of an attribute's mentions ("Exposure: …", "the exposure is …") the first with an allowed value counts.
    A list of several labels is no value, nor is "7 to 8". A label's part in brackets may be left out. The
    score follows "final score", "overall score" or "score of this image"; where nothing but the score was
    asked for, a single number in the text is it. The last word of an answer that was cut off does not count:
    it may be half of one.

    Args:
        written: The answer.
        template: That was asked for; its score is written in digits.
        vocabulary: The allowed labels.
    """
    text = written.text if written.complete else _LAST_WORD.sub("", written.text)
    plain = _DRESS.sub(" ", text)
    asked = asked_targets(template)
    values: dict[str, str | int] = {}
    failures: dict[str, FailureReason] = {}
    for name in asked:
        if name == SCORE:
            continue
        found = _attribute_value(plain, vocabulary[name])
        if isinstance(found, _Unread):
            failures[name] = found.reason
        else:
            values[name] = found
    score = _score(plain, alone=asked == (SCORE,)) if SCORE in asked else None
    if isinstance(score, _Unread):
        failures[SCORE] = score.reason
        score = None
    return ReadAnswer(score, values, failures)


def count_failures(
    written: Sequence[WrittenAnswer], read: Sequence[ReadAnswer], asked: Sequence[str], limit_tokens: int
) -> Parsing:
    """Count what could not be read, by target and reason.

    Args:
        written: Every answer.
        read: What was read out of each.
        asked: Targets that every answer was asked for.
        limit_tokens: Most tokens that an answer may have.
    """
    return Parsing(
        answers=len(read),
        failed=sum(bool(answer.failures) for answer in read),
        cut_off=sum(not answer.complete for answer in written),
        limit_tokens=limit_tokens,
        targets=tuple(_count(name, read) for name in asked),
    )


@dataclass(frozen=True, slots=True)
class _Unread:
    reason: FailureReason


def _count(name: str, read: Sequence[ReadAnswer]) -> ParsedTarget:
    reasons = [answer.failures.get(name) for answer in read]
    return ParsedTarget(
        target=name,
        missing=reasons.count("missing"),
        not_allowed=reasons.count("not_allowed"),
        out_of_range=reasons.count("out_of_range"),
    )


def _hole(part: Part) -> str:
    if isinstance(part, Forced):
        return part.text
    if isinstance(part, Decimal):
        decimals = part.digits - 1
        return f"{{a number from {0:.{decimals}f} to {10 - 10**-decimals:.{decimals}f}, higher is better}}"
    if isinstance(part, Choice):
        values = [value.strip() for value in part.values]
        if values == [str(number) for number in range(INTEGER_LOW, INTEGER_HIGH + 1)]:
            return f" {{an integer from {INTEGER_LOW} to {INTEGER_HIGH}, higher is better}}"
        return f" {{one of: {'; '.join(values)}}}"
    return " {a few words}"


def _attribute_value(text: str, attribute: Attribute) -> str | int | _Unread:
    first: _Unread | None = None
    for mention in _title_pattern(attribute.title).finditer(text):
        if _REASON.search(text[: mention.start()]):
            continue
        rest = text[mention.end() :]
        found = _integer(rest) if attribute.kind == "integer" else _label(rest, attribute)
        if not isinstance(found, _Unread):
            return found
        first = first or found
    return first or _Unread("missing")


@cache
def _title_pattern(title: str) -> re.Pattern[str]:
    """A mention up to its value; "Score" may be left out, and "Eye-Catching" be "eye catching"."""
    words = r"[\s-]*".join(map(re.escape, re.split(r"[\s-]+", title.removesuffix(" Score"))))
    return re.compile(rf"\b{words}(?:\s+(?:score|rating))?{_DIVIDES}", re.IGNORECASE)


def _integer(rest: str) -> int | _Unread:
    found = _NUMBER.match(rest)
    if found is None:
        return _Unread("not_allowed")
    number = _scaled(found)
    if number is None or not INTEGER_LOW <= number <= INTEGER_HIGH:
        return _Unread("out_of_range")
    return int(number) if number.is_integer() else _Unread("not_allowed")


def _label(rest: str, attribute: Attribute) -> str | _Unread:
    said = _starting_label(rest, attribute)
    if said is None:
        return _Unread("not_allowed")
    label, length = said
    if not _LABEL_ENDS.match(rest, length):
        return _Unread("not_allowed")
    after = _NEXT_OPTION.match(rest, length)
    if after is not None and _starting_label(rest[after.end() :], attribute) is not None:
        return _Unread("not_allowed")  # the list of what it might say
    return label


def _starting_label(rest: str, attribute: Attribute) -> tuple[str, int] | None:
    """The longest label that a text begins with, and its length there."""
    found = [
        (match.end(), label) for label, pattern in _spellings(attribute) if (match := pattern.match(rest))
    ]
    if not found:
        return None
    length, label = max(found)
    return label, length


@cache
def _label_pattern(text: str) -> re.Pattern[str]:
    return re.compile(r"[\s-]+".join(map(re.escape, text.split())) + r"(?!\w)", re.IGNORECASE)


def _spellings(attribute: Attribute) -> Iterator[tuple[str, re.Pattern[str]]]:
    shorts = [label.partition(" (")[0] for label in attribute.values]
    for label, short in zip(attribute.values, shorts, strict=True):
        yield label, _label_pattern(_DRESS.sub(" ", label))
        if short != label and shorts.count(short) == 1:
            yield label, _label_pattern(_DRESS.sub(" ", short))


def _score(text: str, *, alone: bool) -> float | _Unread:
    first: _Unread | None = None
    for mention in _SCORE_MENTION.finditer(text):
        found = _in_range(_NUMBER.match(text, mention.end()))
        if not isinstance(found, _Unread):
            return found
        first = first or found
    if first is None and alone:
        numbers = list(_NUMBER.finditer(text))
        if len(numbers) == 1:
            return _in_range(numbers[0])
    return first or _Unread("missing")


def _in_range(found: re.Match[str] | None) -> float | _Unread:
    if found is None:
        return _Unread("not_allowed")
    number = _scaled(found)
    if number is None or not SCORE_LOW <= number <= SCORE_HIGH:
        return _Unread("out_of_range")
    return number


def _scaled(found: re.Match[str]) -> float | None:
    """The number; None where it is of another whole than 10 ("85 out of 100")."""
    whole = found["whole"]
    if whole is not None and float(whole) != SCORE_HIGH:
        return None
    return float(found["number"].replace("−", "-"))
