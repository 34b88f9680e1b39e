"""From an answer template to a slot program, for one tokeniser. Two ways:

- ``compile_segments`` for our own adapters: every piece of a template is tokenised by itself and the ids
  are concatenated, in training and in serving, so slot boundaries hold by construction.
- ``compile_whole_text`` for adapters trained on whole text: tokens may span a boundary ("obscured)" + ","
  is one token), so every value carries its *merged continuation*, found by varying one slot at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from model.slots import (
    ChoiceSlot,
    DecimalSlot,
    Ending,
    FreeTextSlot,
    ReadoutSlot,
    Slot,
    SlotProgram,
    Step,
    Trie,
)
from model.templates import AnswerTemplate, Choice, Decimal, Forced, FreeText, Part, Readout
from schemas.errors import TemplateError
from schemas.manifest import Tokenisation

DIGITS = "0123456789"
_SHORTEST_ENDING = 8
"""Characters. Shorter text (", ", "and") stands in any sentence: every reason would be cut there, and the
score would silently rest on half a reason."""
_SAMPLE_DECIMALS = ("0.12345", "3.45678", "6.78901", "9.01234")


class Encoder(Protocol):
    """What compiling needs of a tokeniser (``model.tokens.TextEncoder``)."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text."""
        ...

    def special(self, name: str) -> int:
        """Id of a special token."""
        ...

    @property
    def token_texts(self) -> tuple[str, ...]:
        """Text of every token by id."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens."""
        ...


def compile_template(
    template: AnswerTemplate, encoder: Encoder, im_end: int, tokenisation: Tokenisation
) -> SlotProgram:
    """Compile a template the way its adapter was trained.

    Args:
        template: The template.
        encoder: The adapter's tokeniser.
        im_end: Id of ``<|im_end|>``, which closes every answer.
        tokenisation: ``segments`` or ``whole_text``.

    Raises:
        TemplateError: A digit is not one token, or values cannot be told apart.
    """
    compile_one = compile_segments if tokenisation == "segments" else compile_whole_text
    return compile_one(template, encoder, im_end)


def build_trie(continuations: Sequence[Sequence[int]], terminator: int) -> Trie:
    """Build the trie of a choice; a continuation that is a prefix of another gets the terminator.

    Raises:
        TemplateError: Two values have the same tokens, or the terminator also continues a value.
    """
    children: list[dict[int, int]] = [{}]
    parent, token, leaf = [-1], [-1], [-1]

    def enter(node: int, edge: int) -> int:
        if edge not in children[node]:
            children[node][edge] = len(children)
            children.append({})
            parent.append(node)
            token.append(edge)
            leaf.append(-1)
        return children[node][edge]

    last: list[int] = []
    for ids in continuations:
        node = 0
        for edge in ids:
            node = enter(node, edge)
        last.append(node)
    if len(set(last)) < len(last):
        raise TemplateError("two values of a choice have the same tokens")
    ends = set()
    for value, node in enumerate(last):
        if children[node]:
            if terminator in children[node]:
                raise TemplateError("the text after a choice also continues one of its values")
            node = enter(node, terminator)
            ends.add(node)
        leaf[node] = value
    edges = tuple(tuple(found.items()) for found in children)
    return Trie(edges, tuple(parent), tuple(token), tuple(leaf), frozenset(ends))


def compile_segments(template: AnswerTemplate, encoder: Encoder, im_end: int) -> SlotProgram:
    """Compile a template whose pieces are tokenised one by one.

    Args:
        template: The template.
        encoder: The adapter's tokeniser.
        im_end: Id of ``<|im_end|>``, which closes every answer.

    Raises:
        TemplateError: A digit is not one token, or values cannot be told apart.
    """
    parts = template.parts
    steps: list[Step] = []
    forced: tuple[int, ...] = ()
    slot: Slot
    for index, part in enumerate(parts):
        if isinstance(part, Forced):
            forced += encoder.encode(part.text)
            continue
        after = parts[index + 1] if index + 1 < len(parts) else None
        if after is not None and not isinstance(after, Forced):
            raise TemplateError(f"{template.name}: nothing stands between {part.name!r} and the next slot")
        text = after.text if after is not None else ""
        follow = encoder.encode(text)[0] if text else im_end
        if isinstance(part, Choice):
            common, slot = _choice_slot(part, [encoder.encode(v) for v in part.values], follow)
            forced += common
        elif isinstance(part, Readout):
            slot = ReadoutSlot(part.name)
        else:
            slot = _other_slot(part, encoder, follow, text)
        steps.append(_step(template, forced, slot, first=not steps))
        forced = ()
    return SlotProgram(template.name, tuple(steps), (*forced, im_end))


def _step(template: AnswerTemplate, forced: tuple[int, ...], slot: Slot, *, first: bool) -> Step:
    # A free text may open an answer: then the closing of the question is what precedes it.
    if not forced and not (first and isinstance(slot, FreeTextSlot)):
        raise TemplateError(f"{template.name}: no forced text before slot {slot.name!r}")
    return Step(forced, slot)


def _choice_slot(
    part: Choice, continuations: Sequence[tuple[int, ...]], follow: int
) -> tuple[tuple[int, ...], ChoiceSlot]:
    common = common_prefix(continuations)
    trie = build_trie([ids[len(common) :] for ids in continuations], follow)
    return common, ChoiceSlot(part.name, tuple(v.strip() for v in part.values), trie)


def _other_slot(part: Decimal | FreeText, encoder: Encoder, follow: int, separator: str) -> Slot:
    if isinstance(part, Decimal):
        digit_ids = tuple(_single(encoder, digit) for digit in DIGITS)
        return DecimalSlot(part.name, part.digits, part.trimmed, digit_ids, _single(encoder, "."), follow)
    if separator and not separator.startswith("\n"):
        return _ended_by_words(part, encoder, separator)
    # A line break is in no free text of ours: the first token that begins one ends it.
    stops = stopping_tokens(encoder.token_texts, separator) | {follow}
    return FreeTextSlot(part.name, part.max_tokens, stops, encoder.special_ids - stops)


def _ended_by_words(part: FreeText, encoder: Encoder, separator: str) -> FreeTextSlot:
    if len(separator.strip()) < _SHORTEST_ENDING:
        raise TemplateError(
            f"{part.name!r}: free text must be ended by a line break, or by words that stand in no sentence; "
            f"{separator!r} is too short"
        )
    ending = Ending(separator.strip(), encoder.token_texts)
    most = part.max_tokens + len(encoder.encode(separator))
    return FreeTextSlot(part.name, most, frozenset(), encoder.special_ids, ending)


def _single(encoder: Encoder, text: str) -> int:
    ids = encoder.encode(text)
    if len(ids) != 1:
        raise TemplateError(f"the tokeniser writes {text!r} as {len(ids)} tokens; a score needs one each")
    return ids[0]


def stopping_tokens(token_texts: Sequence[str], separator: str) -> frozenset[int]:
    """Tokens that begin a separator: some end of the token is a beginning of it, or the reverse.

    What such a token holds before the separator (the stop in ".⏎") is not kept.
    """
    if not separator:
        return frozenset()
    heads = {separator[:length] for length in range(1, len(separator) + 1)}
    found = set()
    for index, text in enumerate(token_texts):
        if separator[0] not in text:
            continue
        starts = (text[start:] for start in range(len(text)))
        if any(tail in heads or tail.startswith(separator) for tail in starts):
            found.add(index)
    return frozenset(found)


def common_prefix(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The longest beginning that all sequences share."""
    shortest = min(sequences, key=len)
    for index, token in enumerate(shortest):
        if any(sequence[index] != token for sequence in sequences):
            return tuple(shortest[:index])
    return tuple(shortest)


def compile_whole_text(template: AnswerTemplate, encoder: Encoder, im_end: int) -> SlotProgram:
    """Compile a template for an adapter that was trained on whole texts.

    Free text splits the template into stretches, each tokenised as a whole with one slot varied at a
    time; tokens that span a slot's border become part of the values' continuations.

    Raises:
        TemplateError: Two slots lie so close that one token spans both.
    """
    steps: list[Step] = []
    stretch: list[Part] = []
    if any(isinstance(part, Readout) for part in template.parts):
        raise TemplateError(f"{template.name}: a head that reads the score is served in segments only")
    for index, part in enumerate(template.parts):
        if not isinstance(part, FreeText):
            stretch.append(part)
            continue
        after = template.parts[index + 1] if index + 1 < len(template.parts) else Forced("")
        if not isinstance(after, Forced):
            raise TemplateError(f"{template.name}: nothing stands between {part.name!r} and the next slot")
        found, forced = _compile_stretch(template, stretch, encoder, im_end)
        follow = encoder.encode(after.text)[0] if after.text else im_end
        free = _other_slot(part, encoder, follow, after.text)
        steps += [*found, _step(template, forced, free, first=not steps and not found)]
        stretch = []
    found, forced = _compile_stretch(template, stretch, encoder, im_end)
    return SlotProgram(template.name, (*steps, *found), (*forced, im_end))


def _compile_stretch(
    template: AnswerTemplate, parts: Sequence[Part], encoder: Encoder, im_end: int
) -> tuple[list[Step], tuple[int, ...]]:
    """Steps of a stretch without free text, and the forced ids after its last slot."""
    texts = [_samples(part) for part in parts]
    plain = [options[0] for options in texts]
    canonical = encoder.encode("".join(plain))
    steps: list[Step] = []
    end = 0
    for index, part in enumerate(parts):
        if isinstance(part, (Forced, FreeText, Readout)):
            continue
        variants = [
            encoder.encode("".join([*plain[:index], text, *plain[index + 1 :]])) for text in texts[index]
        ]
        head, tail = len(common_prefix(variants)), len(_common_suffix(variants))
        middles = [ids[head : len(ids) - tail] for ids in variants]
        follow = canonical[len(canonical) - tail] if tail else im_end
        if head < end:
            raise TemplateError(f"{template.name}: a token spans slot {part.name!r} and the one before")
        slot: Slot
        if isinstance(part, Choice):
            names = tuple(value.strip() for value in part.values)
            slot = ChoiceSlot(part.name, names, build_trie(middles, follow))
        else:
            slot = _other_slot(part, encoder, follow, "")
            _check_decimal(template, slot, texts[index], middles)
        steps.append(_step(template, canonical[end:head], slot, first=False))
        end = len(canonical) - tail
    _check_together(template, parts, texts, SlotProgram("", tuple(steps), canonical[end:]), encoder)
    return steps, canonical[end:]


def _samples(part: Part) -> tuple[str, ...]:
    if isinstance(part, Forced):
        return (part.text,)
    if isinstance(part, Choice):
        return part.values
    if isinstance(part, Decimal):
        return tuple(text[: part.digits + 1] for text in _SAMPLE_DECIMALS)
    return ("",)


def _common_suffix(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    # What follows a slot must not reach into what the values share before they differ.
    head = len(common_prefix(sequences))
    return tuple(reversed(common_prefix([tuple(reversed(ids[head:])) for ids in sequences])))


def _check_decimal(
    template: AnswerTemplate, slot: Slot, texts: Sequence[str], middles: Sequence[tuple[int, ...]]
) -> None:
    for text, ids in zip(texts, middles, strict=True):
        if not isinstance(slot, DecimalSlot) or ids != tuple(
            slot.point_id if c == "." else slot.digit_ids[int(c)] for c in text
        ):
            raise TemplateError(
                f"{template.name}: the digits of {slot.name!r} merge with the text around them"
            )


def _check_together(
    template: AnswerTemplate,
    parts: Sequence[Part],
    texts: Sequence[tuple[str, ...]],
    program: SlotProgram,
    encoder: Encoder,
) -> None:
    """Slots were varied one at a time; see that varying all of them agrees."""
    for pick in (-1, 1):
        chosen = [options[pick % len(options)] for options in texts]
        values = {
            part.name: text.strip()
            for part, text in zip(parts, chosen, strict=True)
            if not isinstance(part, Forced)
        }
        if tuple(program.answer_ids(values)) != encoder.encode("".join(chosen)):
            raise TemplateError(f"{template.name}: the tokens of one slot depend on the value of another")
