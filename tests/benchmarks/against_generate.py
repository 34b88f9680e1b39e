"""Slot decoding beside ``generate()``: whole images, behind the vision tower, and behind the prefill."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from model.prepared import PreparedImage
from model.scorer import Scorer
from model.slots import FreeTextSlot
from tests.benchmarks.bare_scorer import Feeding, micro_batches, predict_all
from tests.benchmarks.devices import alternating, medians, rounded
from tests.benchmarks.generating import Rival, answers_of, image_batch, prefill_only
from tests.benchmarks.swapping import replayed, results_of, swapped

Run = Callable[[], object]


def against_generate(
    scorer: Scorer, stock: Any, images: Sequence[PreparedImage], feeding: Feeding, size: int, runs: int
) -> dict[str, Any]:
    """Both over the same images in the same batches, in turns.

    Args:
        scorer: Ours.
        stock: transformers' own model with the same weights.
        images: A multiple of ``size``.
        feeding: How ours is fed.
        size: Of a batch.
        runs: Of everything.

    Returns:
        Images a second, and how many times longer ``generate()`` takes for as many tokens as the longest
        answer of each batch has (median of the turns): of whole images; with what the vision tower says given
        to both; and with, besides, the time taken off that both need up to the end of the question (of
        ``generate()``, with the first token, which it decides there).
    """
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    answered = [answers_of(scorer.decoder, scorer.decide(batch)) for batch in batches]
    answers = [answer for batch in answered for answer in batch]
    inputs = [image_batch(batch, scorer.device) for batch in batches]
    rival = Rival(stock, scorer, inputs, [max(map(len, batch)) for batch in answered])
    same = replace(feeding, micro_batch=size, token_budget=max(feeding.token_budget, size * 10**6))
    slots = partial(predict_all, scorer, images, same)
    calls: dict[str, Run] = {"slots": slots, "plain": rival.plain}
    calls.update(_parts(scorer, rival, slots, same, images))
    count = len(images)
    figures: dict[str, Any] = {"batch": size, "images": count, "answer_tokens": max(rival.answer_tokens)}
    masked = not any(isinstance(step.slot, FreeTextSlot) for step in scorer.decoder.program.steps)
    if masked:
        theirs = rival.masked()
        equal = sum(one == other for one, other in zip(answers, theirs, strict=True))
        figures["equal_answers"] = rounded(equal / count)
        calls["masked"] = rival.masked
    times = alternating(calls, runs, scorer.device)
    took = medians(times)
    return figures | {
        "images_per_s": rounded(count / took["plain"]),
        "masked_images_per_s": rounded(count / took["masked"]) if masked else None,
        "slots_images_per_s": rounded(count / took["slots"]),
        "ratio_same_batch": _ratio(times["plain"], times["slots"]),
        "ratio_past_vision": _ratio(times["plain past vision"], times["slots past vision"]),
        "ratio_past_prefill": _ratio(
            _without(times["plain past vision"], times["plain prefill"]),
            _without(times["slots past vision"], times["slots prefill"]),
        ),
    }


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Median of the turns."""
    return rounded(statistics.median(one / other for one, other in zip(theirs, ours, strict=True)))


def _without(whole: Sequence[float], part: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(whole, part, strict=True)]


def _parts(
    scorer: Scorer, rival: Rival, slots: Run, feeding: Feeding, images: Sequence[PreparedImage]
) -> dict[str, Run]:
    """What follows the vision tower, and of that the part up to the answer; every call has run once."""
    visual, prefill = rival.stock.model.visual, prefill_only(scorer.decoder)
    said = results_of(scorer.decoder, "_embed_images", slots)
    said_plainly = results_of(visual, "forward", rival.plain)

    def read_questions() -> None:
        with swapped(scorer, "decoder", prefill):
            for batch in micro_batches(images, feeding):
                scorer.decide(batch)

    calls: dict[str, Run] = {
        "slots past vision": _given(scorer.decoder, "_embed_images", said, slots),
        "slots prefill": _given(prefill, "_embed_images", said, read_questions),
        "plain past vision": _given(visual, "forward", said_plainly, rival.plain),
        "plain prefill": _given(visual, "forward", said_plainly, rival.first_token),
    }
    for call in calls.values():
        call()
    return calls


def _given(owner: Any, method: str, said: Sequence[Any], run: Run) -> Run:
    """The same run with what a method said at hand."""

    def again() -> None:
        with replayed(owner, method, said):
            run()

    return again
