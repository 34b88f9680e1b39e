"""Questions and answer templates: one definition for training and serving.

Training renders a template with labels (``model.conversation``); serving compiles the same template into
a slot program (``model.slots``). Stage 1 has 13 conversations an image (Mix, 3 Levels, 9 Attributes),
stage 2 three (Q1 direct, Q2 prose, Q3 regular form): RealQA, arXiv 2503.06141, section 3. Wording that the
paper does not publish is ours.

Variants: without suffix no free text at all before the score (fast, the default); ``_subject`` adds the
words for subject and background; ``_reasons`` adds these and a reason before each of the two high-level
scores, as RealQA does.

``published_form`` and ``published_prose`` are the authors' own layout of Q3 and Q2, for adapters trained
elsewhere (``whole_text``): served here, never trained. What their answers say of the other attributes has no
published wording, so it is one free text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from schemas.attributes import Attribute, Level, Vocabulary
from schemas.errors import ConfigurationError
from schemas.manifest import READOUT_HEADS, ScoreScale

Variant = Literal["", "subject", "reasons"]
VARIANTS: tuple[Variant, ...] = ("", "subject", "reasons")
DEFAULT_TEMPLATE = "score_form"
SCORE = "score"
PROSE = "prose"
MIX_LOW_TO_HIGH = "mix_low_to_high"
"""The other order of levels, to compare with (RealQA, Table 2)."""

_SUBJECT_TOKENS, _REASON_TOKENS, _PROSE_TOKENS = 24, 48, 384
_PUBLISHED_REASON_TOKENS = 128  # theirs have no limit
_RATE = "Rate the aesthetics and quality of this image"
_LEVELS: tuple[Level, ...] = ("high", "middle", "low")


@dataclass(frozen=True)
class Forced:
    """Text that stands in every answer."""

    text: str


@dataclass(frozen=True)
class Choice:
    """A slot for one of several values; ``values`` as written, leading space included."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Decimal:
    """A slot for the score: an integer digit, a point, ``digits - 1`` decimals (fewer if trimmed)."""

    name: str
    digits: int
    trimmed: bool


@dataclass(frozen=True)
class FreeText:
    """A slot for words, ended by the forced text after it, ``max_tokens`` at most.

    A line break ends it where it begins; other forced text only as a whole, wherever it stands in a line.
    """

    name: str
    max_tokens: int


@dataclass(frozen=True)
class Readout:
    """A score that nobody writes: a head reads it off the hidden state of the text before."""

    name: str


Part = Forced | Choice | Decimal | FreeText | Readout


@dataclass(frozen=True)
class AnswerTemplate:
    """A question and the shape of its answer.

    Attributes:
        name: As manifests, options and rows name it.
        stage: 1 (attributes) or 2 (score).
        instruction: The question.
        parts: The answer, forced text and slots in turn; two slots never touch.
    """

    name: str
    stage: Literal[1, 2]
    instruction: str
    parts: tuple[Part, ...]

    @property
    def slots(self) -> tuple[Choice | Decimal | FreeText | Readout, ...]:
        """The parts to be decided, in order."""
        return tuple(part for part in self.parts if not isinstance(part, Forced))

    @property
    def has_free_text(self) -> bool:
        """Whether some slot is free text, which costs one pass a token; never so by default."""
        return any(isinstance(part, FreeText) for part in self.parts)


def answer_templates(vocabulary: Vocabulary, scale: ScoreScale) -> dict[str, AnswerTemplate]:
    """Build every template that is trained here, for a vocabulary and a score scale, by name."""
    templates = [*_stage1(vocabulary), *_stage2(vocabulary, scale)]
    return {template.name: template for template in templates}


def served_templates(vocabulary: Vocabulary, scale: ScoreScale) -> dict[str, AnswerTemplate]:
    """Build every template that can be served: ours, and those of adapters trained elsewhere."""
    published = {template.name: template for template in _published(vocabulary, scale)}
    return answer_templates(vocabulary, scale) | published


def answer_template(name: str, vocabulary: Vocabulary, scale: ScoreScale) -> AnswerTemplate:
    """Build one named template.

    Raises:
        ConfigurationError: There is no template of that name; the message lists those there are.
    """
    templates = served_templates(vocabulary, scale)
    if name not in templates:
        raise ConfigurationError(f"no answer template {name!r}; there are: {', '.join(sorted(templates))}")
    return templates[name]


def templates_sha256(names: Iterable[str], vocabulary: Vocabulary, scale: ScoreScale) -> str:
    """Pin the wording of templates: sha256 over questions and parts, in order of name."""
    templates = served_templates(vocabulary, scale)
    content = [
        (name, templates[name].instruction, [(type(p).__name__, asdict(p)) for p in templates[name].parts])
        for name in sorted(names)
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stage1(vocabulary: Vocabulary) -> list[AnswerTemplate]:
    found = []
    for variant in VARIANTS:
        asks: dict[str, tuple[str, Sequence[Attribute]]] = {
            "mix": ("Assess the attributes of this image from high to low level.", vocabulary.attributes),
            MIX_LOW_TO_HIGH: (
                "Assess the attributes of this image from low to high level.",
                [one for level in reversed(_LEVELS) for one in vocabulary.at_level(level)],
            ),
        }
        for level in _LEVELS:
            question = f"Assess the {level} level attributes of this image."
            asks[f"level_{level}"] = (question, vocabulary.at_level(level))
        for attribute in vocabulary.evaluated:
            question = f"Assess the {attribute.title.removesuffix(' Score').lower()} of this image."
            asks[f"attribute_{attribute.name}"] = (question, _alone(attribute, vocabulary))
        for name, (question, attributes) in asks.items():
            parts = _joined(_attribute_parts(attributes, variant))
            found.append(AnswerTemplate(_named(name, variant), 1, question, parts))
    return _distinct(found)


def _alone(attribute: Attribute, vocabulary: Vocabulary) -> tuple[Attribute, ...]:
    # The middle-level attributes about subject and background are asked together with its words.
    words = vocabulary["subject_and_background"]
    about = ("subject_integrity", "subject_clutter", "background_clutter")
    return (words, attribute) if attribute.name in about else (attribute,)


def _stage2(vocabulary: Vocabulary, scale: ScoreScale) -> list[AnswerTemplate]:
    direct, final = _scores(scale)
    prose = (FreeText(PROSE, _PROSE_TOKENS), *final)
    found = [
        AnswerTemplate("score_direct", 2, f"{_RATE}.", direct),
        AnswerTemplate("score_prose", 2, f"{_RATE} step by step.", prose),
    ]
    for variant in VARIANTS:
        lines = _attribute_parts(vocabulary.attributes, variant)
        found.append(
            AnswerTemplate(
                _named("score_form", variant),
                2,
                f"{_RATE} step by step with the regular form.",
                _joined([*lines, *final]),
            )
        )
    return found


def _scores(scale: ScoreScale) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """How a score stands alone, and at the end of an answer."""
    if scale.head in READOUT_HEADS:
        score = Readout(SCORE)
        return (Forced("The score of this image is"), score), (Forced("\nThe final score is"), score)
    if scale.head != "digits":
        level = Choice(SCORE, tuple(f" {word}" for word in scale.level_words))
        says = "The quality of this image is"
        return (Forced(says), level, Forced(".")), (Forced(f"\n{says}"), level, Forced("."))
    digits = Decimal(SCORE, scale.digits, scale.trimmed)
    return (
        (Forced("The score of this image is "), digits, Forced(".")),
        (Forced("\nThe final score is <"), digits, Forced(">.")),
    )


def _published(vocabulary: Vocabulary, scale: ScoreScale) -> list[AnswerTemplate]:
    """Q3 and Q2 as published; unknown is what stands between the second score and the other attributes."""
    rest: tuple[Part, ...] = (
        FreeText(PROSE, _PROSE_TOKENS),
        Forced(" The final score is <"),
        Decimal(SCORE, scale.digits, scale.trimmed),
        Forced(">."),
    )
    form: list[Part] = []
    for number, name in ((1, "composition"), (3, "eye_catching")):
        attribute = vocabulary[name]
        form += [
            Forced(f" 1.{number} Reason for {attribute.title}:"),
            FreeText(f"{name}_reason", _PUBLISHED_REASON_TOKENS),
            Forced(f", 1.{number + 1} {attribute.title}:"),
            Choice(name, tuple(f" {value}" for value in attribute.values)),
        ]
    # One blank, as published between "1.2" with its score and "1.3".
    parts = _joined([*form, Forced(" "), *rest])
    return [
        AnswerTemplate("published_form", 2, f"{_RATE} step by step with the regular form.", parts),
        AnswerTemplate("published_prose", 2, f"{_RATE} step by step.", rest),
    ]


def _attribute_parts(attributes: Iterable[Attribute], variant: Variant) -> list[Part]:
    parts: list[Part] = []
    for attribute in attributes:
        if attribute.kind == "text":
            if variant:
                parts += [Forced(f"\n{attribute.title}:"), FreeText(attribute.name, _SUBJECT_TOKENS)]
            continue
        if variant == "reasons" and attribute.kind == "integer":
            reason = FreeText(f"{attribute.name}_reason", _REASON_TOKENS)
            parts += [Forced(f"\nReason for {attribute.title}:"), reason]
        values = tuple(f" {value}" for value in attribute.values)
        parts += [Forced(f"\n{attribute.title}:"), Choice(attribute.name, values)]
    return parts


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    first = parts[0]
    if isinstance(first, Forced):
        parts = [replace(first, text=first.text.lstrip()), *parts[1:]]
    return tuple(parts)


def _named(name: str, variant: Variant) -> str:
    return f"{name}_{variant}" if variant else name


def _distinct(templates: list[AnswerTemplate]) -> list[AnswerTemplate]:
    # A variant that adds nothing to its plain template is no template of its own.
    seen: dict[tuple[str, tuple[Part, ...]], AnswerTemplate] = {}
    for template in templates:
        seen.setdefault((template.instruction, template.parts), template)
    return list(seen.values())
