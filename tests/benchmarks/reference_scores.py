"""The scores of the fast path beside those of the reference path, for the same photographs.

The reference: transformers' own model with none of our fast paths, pixels normalised in float, every image
alone and without padding, nothing shared or cached, the embedded adapter as PEFT applies it. Whole sequences
go through its forward, once for an answer and once for every first digit of the score.

It decides by itself: an answer of the fast path stands as the reference's only if the reference would have
written every token of it; else the reference writes its own, by ``generate()`` under the template's mask.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.fp8_check import agreement
from model.prepared import PreparedImage
from model.ragged import ImageBatch
from model.reading import digit_tree_moments
from model.scorer import Scorer
from model.slots import DecimalSlot, FreeTextSlot, SlotProgram, walk_slot
from model.templates import SCORE
from schemas.errors import ConfigurationError
from tests.benchmarks.bare_scorer import Feeding, micro_batches
from tests.benchmarks.devices import rounded
from tests.benchmarks.generating import answers_of, image_batch
from tests.benchmarks.pictures import Pixels, jpegs, read_photographs, size_of
from tests.model.reference import generate_under_mask
from tests.model.teacher import Setup, teacher_forced

_FEWEST = 3


@dataclass(frozen=True)
class Scored:
    """What one path said about an image.

    Attributes:
        score: Mean over the digit tree, in [0, 10).
        answer: Ids of the whole answer.
    """

    score: float
    answer: list[int]


def reference_photographs(folder: Path | None, count: int) -> list[Pixels]:
    """Read the photographs to compare on.

    Raises:
        ConfigurationError: There are fewer than ``count``, or too few are asked for.
    """
    if count < _FEWEST:
        raise ConfigurationError(f"--reference-images: at least {_FEWEST}, as fewer have no ranks to compare")
    photos = read_photographs(folder, count)
    if len(photos) < count:
        raise ConfigurationError(
            f"--reference-images {count}: there are only {len(photos)} photographs; name more with --photos"
        )
    return photos


def check_comparable(scorer: Scorer) -> None:
    """Refuse templates whose answers the reference cannot compare.

    Raises:
        ConfigurationError: The template writes free text, or no score in digits.
    """
    slots = [step.slot for step in scorer.decoder.program.steps]
    if any(isinstance(slot, FreeTextSlot) for slot in slots):
        raise ConfigurationError(
            f"--against-reference: template {scorer.provenance.template} writes free text"
        )
    if not any(isinstance(slot, DecimalSlot) for slot in slots):
        raise ConfigurationError(
            f"--against-reference: template {scorer.provenance.template} writes no score in digits"
        )


def against_reference(
    scorer: Scorer,
    model: Any,
    photos: Sequence[Pixels],
    megapixels: float,
    feeding: Feeding,
    peer: Any = None,
) -> dict[str, Any]:
    """Score photographs both ways.

    Args:
        scorer: The fast path.
        model: The reference's, in its own number format.
        photos: At least three; each keeps its aspect, so that rows of a micro-batch differ in length.
        megapixels: Of the JPEG files.
        feeding: How the fast path takes them.
        peer: transformers' own model with the fast path's very weights, in its number format, which is not
            the reference's: what rounding does without any fast path. None = no such comparison.
    """
    files = [jpegs([photo], *size_of(megapixels, photo.shape[0] / photo.shape[1]))[0] for photo in photos]
    images, ours = _fast(scorer, [scorer.prepare(data) for data in files], feeding)
    decoder = scorer.decoder

    def scored_by(other: Any) -> list[Scored]:
        setup = Setup(other, scorer.encoder, decoder.prompt, decoder.program)
        return [
            reference(setup, image_batch([image], scorer.device), found.answer)
            for image, found in zip(images, ours, strict=True)
        ]

    theirs = scored_by(model)
    figures = {
        "images": len(files),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "score_std": rounded(statistics.stdev(one.score for one in theirs)),
        "ours": _differences(decoder.program, ours, theirs),
    }
    return figures | (
        {} if peer is None else {"peer": _differences(decoder.program, scored_by(peer), theirs)}
    )


def _differences(program: SlotProgram, these: Sequence[Scored], exact: Sequence[Scored]) -> dict[str, float]:
    found = agreement([one.score for one in exact], [one.score for one in these], "")
    answers = [(one.answer, other.answer) for one, other in zip(these, exact, strict=True)]
    values = [(_values(program, one), _values(program, other)) for one, other in answers]
    return {
        "median_delta": rounded(found.median_difference),
        "largest_delta": rounded(found.max_difference),
        "srcc": round(found.srcc, 5),
        "decided_otherwise": rounded(statistics.mean(one != other for one, other in answers)),
        "values_otherwise": rounded(statistics.mean(one != other for one, other in values)),
    }


def _fast(
    scorer: Scorer, prepared: Sequence[PreparedImage], feeding: Feeding
) -> tuple[list[PreparedImage], list[Scored]]:
    images: list[PreparedImage] = []
    scored: list[Scored] = []
    for batch in micro_batches(prepared, feeding):
        decisions = scorer.decide(batch)
        scores = scorer.reader.score_readings(decisions)["digit_tree"]
        images += batch
        scored += map(Scored, scores, answers_of(scorer.decoder, decisions))
    return images, scored


def reference(setup: Setup, image: ImageBatch, answer: Sequence[int]) -> Scored:
    """What the reference says about one image.

    Args:
        setup: The reference's model, and the question.
        image: One image, on the model's device.
        answer: A proposal: that of another path.
    """
    own = list(answer)
    # What the ordinary forward is given is made on the current device.
    with image.patches.device:
        logs = teacher_forced(setup, image, 0, own)
        if not _writes(setup.program, own, logs):
            (own,) = generate_under_mask(setup.model, setup.encoder, setup.prompt, setup.program, image)
            logs = teacher_forced(setup, image, 0, own)
        return Scored(_score(setup, image, own, logs), own)


def _writes(program: SlotProgram, answer: Sequence[int], logs: torch.Tensor) -> bool:
    """Whether every token of an answer is the most probable one of those that the program allows."""
    for place, token in enumerate(answer):
        allowed = program.allowed_after(answer[:place])
        assert allowed is not None  # free text was refused
        if allowed[int(logs[place][list(allowed)].argmax())] != token:
            return False
    return True


def _score(setup: Setup, image: ImageBatch, answer: Sequence[int], logs: torch.Tensor) -> float:
    slot, start = setup.program.slot(SCORE), spans(setup.program, answer)[SCORE].start
    assert isinstance(slot, DecimalSlot)
    digits = list(slot.digit_ids)

    def behind(digit: int) -> torch.Tensor:
        if digit == answer[start]:
            return logs[start + 2]
        return teacher_forced(setup, image, 0, [*answer[:start], digit, slot.point_id])[-1]

    first = logs[start][digits].double().softmax(0)
    second = torch.stack([behind(digit)[digits].double().softmax(0) for digit in digits])
    return float(digit_tree_moments(first[None], second[None], slot.digits)[0])


def spans(program: SlotProgram, answer: Sequence[int]) -> dict[str, slice]:
    """Where the value of every slot stands in an answer."""
    found, place = {}, 0
    for step in program.steps:
        place += len(step.forced)
        used, _ = walk_slot(step.slot, answer[place:], program.closing[0])
        assert used is not None  # the answer is whole
        found[step.slot.name] = slice(place, place + used)
        place += used
    return found


def _values(program: SlotProgram, answer: Sequence[int]) -> Mapping[str, Sequence[int]]:
    """Ids of every value but the score, whose last digit says little."""
    return {name: answer[span] for name, span in spans(program, answer).items() if name != SCORE}
