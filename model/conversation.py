"""Questions and answers as token ids: one definition for training and serving.

The conversation is Qwen2-VL's ChatML. A prompt is cut where serving needs it: a *prefix* that all images
share (with the instruction before the image, ours, that is nearly everything, and its keys and values are
computed once), the image, and a *tail* (context, if any, and the opening of the answer).

    <|im_start|>system⏎{system}<|im_end|>⏎<|im_start|>user⏎{instruction}<|vision_start|>   prefix
    <|image_pad|> × visual tokens                                                          image
    <|vision_end|>{context}<|im_end|>⏎<|im_start|>assistant⏎                               tail
    {answer}<|im_end|>                                                                     slot program

With the instruction after the image, as published, it stands right after ``<|vision_end|>``. Text between
two special tokens is tokenised by itself, as any tokeniser of whole strings would; only a context is a piece
of its own in our adapters (``segments``), and tokenised with the sentence around it for others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.prose import compose_prose
from model.scores import score_text, to_unit_scale
from model.slots import FreeTextSlot, ReadoutSlot, SlotProgram, slot_tokens
from model.templates import PROSE, SCORE, AnswerTemplate, FreeText
from model.tokens import IM_END, IM_START, IMAGE_PAD, VISION_END, VISION_START, TextEncoder
from schemas.annotations import Annotation
from schemas.manifest import Conversation, Placement, ScoreScale, Tokenisation


@dataclass(frozen=True)
class Prompt:
    """What stands before an answer, in ids.

    Attributes:
        prefix: Up to and including ``<|vision_start|>``; the same for every image.
        middle: From ``<|vision_end|>`` up to the context; the same for every image.
        closing: From after the context to the opening of the answer; the same for every image.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    closing: tuple[int, ...]

    def ids(self, image_pad: int, visual_tokens: int, context: Sequence[int] = ()) -> list[int]:
        """The whole prompt of one image."""
        image = [image_pad] * visual_tokens
        return [*self.prefix, *image, *self.middle, *context, *self.closing]


@dataclass(frozen=True)
class ContextIds:
    """A context, ready for the prompt: ``ids``, and the ``text`` that they hold (None without context)."""

    ids: tuple[int, ...] = ()
    text: str | None = None


def chatml_sha256(system: str, instruction: Placement) -> str:
    """Pin the ChatML scaffold: sha256 of the string with holes for instruction, image and context."""
    ask, after = ("{instruction}", "") if instruction == "before_image" else ("", "{instruction}")
    scaffold = (
        f"{IM_START}system\n{system}{IM_END}\n{IM_START}user\n{ask}{VISION_START}{IMAGE_PAD}{VISION_END}"
        f"{after}{{context}}{IM_END}\n{IM_START}assistant\n{{answer}}{IM_END}"
    )
    return hashlib.sha256(scaffold.encode()).hexdigest()


def build_prompt(template: AnswerTemplate, conversation: Conversation, encoder: TextEncoder) -> Prompt:
    """Render the question of a template as ids."""
    start, end = encoder.special(IM_START), encoder.special(IM_END)
    newline = encoder.encode("\n")
    instruction = encoder.encode(template.instruction)
    before = instruction if conversation.instruction == "before_image" else ()
    after = instruction if conversation.instruction == "after_image" else ()
    prefix = (
        start,
        *encoder.encode(f"system\n{conversation.system}"),
        end,
        *newline,
        start,
        *encoder.encode("user\n"),
        *before,
        encoder.special(VISION_START),
    )
    middle = (encoder.special(VISION_END), *after)
    closing = (end, *newline, start, *encoder.encode("assistant\n"))
    return Prompt(prefix, middle, closing)


def encode_context(
    context: str | None,
    conversation: Conversation,
    encoder: TextEncoder,
    tokenisation: Tokenisation = "segments",
) -> ContextIds:
    """Make a context harmless and fit: white space normalised, specials as plain text, cut to its cap.

    Returns:
        Ids of the filled context template, and the context as the model will see it; empty where there
        is no context or the adapter takes none.
    """
    words = " ".join((context or "").split())
    if not words or conversation.context_template is None:
        return ContextIds()
    before, after = conversation.context_template.split("{context}")
    ids = encoder.encode(words)[: conversation.context_max_tokens]
    # A character cut in half at the cap leaves its replacement behind; nobody gave that.
    used = encoder.decode(ids).rstrip("\ufffd").rstrip()
    if tokenisation == "whole_text":
        return ContextIds(encoder.encode(before + used + after), used)
    return ContextIds((*encoder.encode(before), *ids, *encoder.encode(after)), used)


@dataclass(frozen=True)
class TrainingExample:
    """One conversation with its labels.

    Attributes:
        input_ids: Prompt, answer, ``<|im_end|>``.
        answer_start: Index of the answer's first token.
        decided: For every answer token whether it is part of a slot's value, or the terminator that
            stands for the end of a value; the others are forced in serving.
        score_start: Index within the answer of the score's first token (of what follows it, where a head
            reads the score off the token before); None without a score.
    """

    input_ids: tuple[int, ...]
    answer_start: int
    decided: tuple[bool, ...]
    score_start: int | None = None


def training_example(
    prompt: Prompt,
    program: SlotProgram,
    values: Mapping[str, str],
    encoder: TextEncoder,
    visual_tokens: int,
    context: ContextIds = ContextIds(),
) -> TrainingExample:
    """Render a labelled conversation: exactly the ids that serving feeds when it decides the same values.

    Args:
        prompt: From ``build_prompt``.
        program: The template, compiled.
        values: Text of every slot (``slot_values``), free text included.
        encoder: The tokeniser.
        visual_tokens: Merged visual tokens of the image.
        context: From ``encode_context``.
    """
    asked = prompt.ids(encoder.special(IMAGE_PAD), visual_tokens, context.ids)
    free = {
        step.slot.name: encoder.encode((" " if step.forced else "") + values[step.slot.name])
        for step in program.steps
        if isinstance(step.slot, FreeTextSlot)
    }
    answer: list[int] = []
    decided: list[bool] = []
    follows_value = False
    score_start = None
    for step in program.steps:
        tokens = slot_tokens(step.slot, values, free)
        if step.slot.name == SCORE:
            score_start = len(answer) + len(step.forced)
        answer += [*step.forced, *tokens]
        decided += [follows_value and index == 0 for index in range(len(step.forced))]
        decided += [True] * len(tokens)
        follows_value = not isinstance(step.slot, ReadoutSlot)
    answer += program.closing
    decided += [follows_value and index == 0 for index in range(len(program.closing))]
    return TrainingExample((*asked, *answer), len(asked), tuple(decided), score_start)


def slot_values(
    template: AnswerTemplate, annotation: Annotation, scale: ScoreScale, seed: int = 0
) -> dict[str, str] | None:
    """Texts of a template's slots for a labelled image; None where a label is missing.

    Args:
        template: The template.
        annotation: The labels.
        scale: How the score is written.
        seed: Chooses among the sentences of the prose template.
    """
    values: dict[str, str] = {}
    for slot in template.slots:
        if slot.name == SCORE:
            unit = None if annotation.mos is None else to_unit_scale(annotation.mos, scale)
            text = None if unit is None else score_text(unit, scale)
        elif slot.name == PROSE:
            text = compose_prose(annotation, seed)
        else:
            label = getattr(annotation, slot.name)
            text = None if label is None else str(label).strip()
            if isinstance(slot, FreeText) and text is not None:
                text = " ".join(text.split())
        if not text:
            return None
        values[slot.name] = text
    return values
