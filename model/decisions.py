"""What a batch answered: one decision a slot, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.slots import ChoiceSlot, SlotProgram


@dataclass(frozen=True)
class ChoiceDecision:
    """Decided ``value`` (batch,) and ``probabilities`` (batch, values)."""

    value: torch.Tensor
    probabilities: torch.Tensor


@dataclass(frozen=True)
class DecimalDecision:
    """A score's greedy digits, the distribution of the first two, and of the others behind the greedy ones.

    Attributes:
        digits: (batch, M), -1 after a trimmed end.
        first: (batch, 10) probabilities of the first digit.
        second: (batch, 10, 10) probabilities of the second given the first.
        later: (batch, M - 2, 10) probabilities of every further digit given the greedy ones before it; the
            end of a trimmed score counts as 0, and so does everything behind it.
    """

    digits: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    later: torch.Tensor


@dataclass(frozen=True)
class TextDecision:
    """Ids of free text, (batch, max_tokens), -1 after the end."""

    ids: torch.Tensor


@dataclass(frozen=True)
class ReadoutDecision:
    """What a score head gave, (batch, outputs) in float32: logits of its classes, or one number."""

    outputs: torch.Tensor


Decision = ChoiceDecision | DecimalDecision | TextDecision | ReadoutDecision


@dataclass(frozen=True)
class Decisions:
    """What a batch answered: one decision a slot, in the program's order.

    Attributes:
        slots: Decisions by step.
        format_mass: (batch,) smallest unrestricted probability of the allowed set over the nodes where a
            row's choices and digits were decided. Forced tokens, single ways on and free text do not count.
    """

    slots: tuple[Decision, ...]
    format_mass: torch.Tensor


def decided_values(program: SlotProgram, decisions: Decisions, row: int) -> dict[str, str]:
    """Text of every choice and decimal that a row decided, by slot name."""
    values: dict[str, str] = {}
    for step, decision in zip(program.steps, decisions.slots, strict=True):
        slot = step.slot
        if isinstance(slot, ChoiceSlot) and isinstance(decision, ChoiceDecision):
            values[slot.name] = slot.values[int(decision.value[row])]
        elif isinstance(decision, DecimalDecision):
            digits = [str(int(d)) for d in decision.digits[row] if int(d) >= 0]
            values[slot.name] = f"{digits[0]}.{''.join(digits[1:])}"
    return values


def written_ids(program: SlotProgram, decisions: Decisions, row: int) -> dict[str, Sequence[int]]:
    """Ids of every free text that a row wrote, by slot name."""
    return {
        step.slot.name: [int(token) for token in decision.ids[row] if int(token) >= 0]
        for step, decision in zip(program.steps, decisions.slots, strict=True)
        if isinstance(decision, TextDecision)
    }
