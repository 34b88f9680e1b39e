"""What a model is asked to write where it is fed something else: values fed wrong, against exposure bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.conversation import TrainingExample
from model.slots import FreeTextSlot, SlotProgram, slot_tokens


@dataclass(frozen=True, slots=True)
class WrongValues:
    """How often the model is fed a value that it was trained not to write.

    RealQA's order puts the two integers first, and they sum up all that follows: under teacher forcing a
    model learns to read the later attributes off the integers instead of the picture, and fails when it
    has to decide the integers itself (exposure bias). A value that is often wrong is not relied upon.

    Attributes:
        integers: Share of integers fed wrong.
        labels: Share of labels fed wrong.
    """

    integers: float = 0.0
    labels: float = 0.0


ALWAYS_RIGHT = WrongValues()


def targets_of(
    program: SlotProgram, example: TrainingExample, true: Mapping[str, str], fed: Mapping[str, str]
) -> tuple[int | None, ...]:
    """What should be written at every answer token of an example that is fed some values wrong.

    Where a wrong value leaves the true one, that token of the true value is asked for; what follows within
    the slot has no right answer.

    Args:
        program: The compiled template.
        example: Rendered with ``fed``.
        true: Values of the slots by the labels.
        fed: Values as fed.
    """
    targets: list[int | None] = list(example.input_ids[example.answer_start :])
    position = 0
    for step in program.steps:
        position += len(step.forced)
        if isinstance(step.slot, FreeTextSlot):
            # Its length is not known here; what comes after it is fed as it is.
            break
        wanted, given = (list(slot_tokens(step.slot, values, {})) for values in (true, fed))
        if wanted != given:
            _retarget(targets, position, wanted, given)
        position += len(given)
    return tuple(targets)


def _retarget(targets: list[int | None], start: int, wanted: Sequence[int], given: Sequence[int]) -> None:
    fork = 0
    while fork < min(len(wanted), len(given)) and wanted[fork] == given[fork]:
        fork += 1
    for index in range(fork, len(given)):
        targets[start + index] = None
    # At the fork the true value goes on; where "1" was fed for "10", that is where the next segment begins.
    # Where "10" was fed for "1", the end of the value was wanted: the first token of what follows.
    if fork < len(wanted):
        targets[start + fork] = wanted[fork]
    else:
        targets[start + fork] = targets[start + len(given)]
