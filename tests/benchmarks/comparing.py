"""What an optimisation gives: the same work with it and without it, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from model.prepared import PreparedImage
from model.ragged import ImageBatch
from model.scorer import Scorer
from tests.benchmarks.bare_scorer import Feeding
from tests.benchmarks.built import Built
from tests.benchmarks.devices import rounded, seconds_of
from tests.benchmarks.generating import image_batch


@dataclass(frozen=True)
class Bench:
    """What all comparisons of a run work on.

    Attributes:
        built: The model.
        scorer: On it.
        images: Of one micro-batch.
        files: JPEG files of the photographs that they were made from.
        feeding: Sizes of micro-batches, and threads that decode.
        runs: Turns of every comparison.
    """

    built: Built
    scorer: Scorer
    images: Sequence[PreparedImage]
    files: Sequence[bytes]
    feeding: Feeding
    runs: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.scorer.device

    @cached_property
    def batch(self) -> ImageBatch:
        """The micro-batch, on the device."""
        return image_batch(self.images, self.device)

    def decide(self) -> Any:
        """Decode the micro-batch, from pixels on the host to decisions."""
        return self.scorer.decide(self.images)


@dataclass(frozen=True)
class Comparison:
    """The same work twice.

    Attributes:
        having: The work as the product does it.
        lacking: The work without one optimisation.
        switch: Entered around ``lacking``, and not timed.
    """

    having: Callable[[], Any]
    lacking: Callable[[], Any]
    switch: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Optimisation:
    """One row of the table.

    Attributes:
        name: What it is.
        instead: What runs where it is off.
        timed: What the times are of.
        compare: Gets it ready; what must be taken down again goes on the stack.
        predicted: What was said that it would give, before it was measured; None where no figure was given.
        unfit: Says why it cannot be measured here; None where it can.
    """

    name: str
    instead: str
    timed: str
    compare: Callable[[Bench, ExitStack], Comparison]
    predicted: str | None = None
    unfit: Callable[[Bench], str | None] = lambda bench: None


def measure(optimisation: Optimisation, bench: Bench) -> dict[str, Any]:
    """Time an optimisation's two sides in turns, warm.

    Returns:
        The row: median milliseconds of both sides, and the median, over the turns, of how many times longer
        the work took without it.
    """
    with ExitStack() as stack:
        comparison = optimisation.compare(bench, stack)
        _turn(comparison, bench.device)  # warm-up
        turns = [_turn(comparison, bench.device) for _ in range(bench.runs)]
    ratios = [lacking / having for having, lacking in turns]
    having, lacking = (statistics.median(column) * 1000 for column in zip(*turns, strict=True))
    return {
        "optimisation": optimisation.name,
        "instead": optimisation.instead,
        "timed": optimisation.timed,
        "with_ms": rounded(having),
        "without_ms": rounded(lacking),
        "ratio": rounded(statistics.median(ratios)),
        "ratios": [rounded(ratio) for ratio in ratios],
        "predicted": optimisation.predicted,
    }


def _turn(comparison: Comparison, device: torch.device) -> tuple[float, float]:
    having = seconds_of(comparison.having, device)
    with comparison.switch():
        return having, seconds_of(comparison.lacking, device)
