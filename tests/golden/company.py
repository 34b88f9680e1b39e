"""Put one photograph into many micro-batches and see how far its prediction moves.

Everything here goes through ``Scorer.predict``, the one call that the library and the pipeline score with, so
that the micro-batch is the one that is meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np
import torch

from model.prepared import PreparedImage
from model.scorer import Scorer
from schemas.records import Prediction
from tests.golden.photographs import png
from tests.golden.records import DECIDED

MOST_SPREAD = 1e-3
"""What a score of 0-10 may move with its company: a tenth of the 0.01 promised, so that small leaks show."""

BATCHES = (2, 4, 8, 16, 32, 64)
_WORDS = "an old boat on the shore of a lake, seen from the hill behind the village, on a misty morning"


@dataclass(frozen=True)
class Moved:
    """One photograph's predictions in many companies.

    Attributes:
        predictions: By company; the first is of the photograph alone.
    """

    predictions: Mapping[str, Prediction]

    @property
    def spread(self) -> float:
        """Largest score less smallest, over all companies."""
        scores = list(self._scores().values())
        return max(scores) - min(scores)

    @property
    def changed(self) -> dict[str, tuple[str, ...]]:
        """Companies in which a decided value or ``score_greedy`` is another than alone, with the fields."""
        alone = next(iter(self.predictions.values()))
        fields = {
            name: tuple(field for field in DECIDED if getattr(found, field) != getattr(alone, field))
            for name, found in self.predictions.items()
        }
        return {name: found for name, found in fields.items() if found}

    def largest(self, company: str) -> float:
        """How far the score moved at most from alone, in the companies whose name begins so."""
        scores = self._scores()
        alone = next(iter(scores.values()))
        return max(abs(score - alone) for name, score in scores.items() if name.startswith(company))

    def _scores(self) -> dict[str, float]:
        return {name: found.score for name, found in self.predictions.items() if found.score is not None}


def neighbours(scorer: Scorer) -> dict[str, PreparedImage]:
    """Photographs to stand beside one, by what is special about them.

    Sizes follow the adapter's pixel budget; the noise is the same at every call.
    """
    rule = scorer.manifest.image
    least, most = (max(28, math.isqrt(pixels)) for pixels in (rule.min_pixels, rule.max_pixels))
    draw = np.random.default_rng(0)

    def noise(height: int, width: int) -> bytes:
        return png(draw.integers(0, 256, (height, width, 3)))

    def plain(level: int) -> bytes:
        return png(np.full((most, most, 3), level))

    return {
        "small": scorer.prepare(noise(least, least)),
        "wide": scorer.prepare(noise(least // 4, 4 * least)),
        "tall": scorer.prepare(noise(4 * least, least // 4)),
        "ribbon": scorer.prepare(noise(4, 400)),
        "large": scorer.prepare(noise(most, most)),
        "short context": scorer.prepare(noise(least, least), context="a barn"),
        "long context": scorer.prepare(noise(least, least), context=f"{_WORDS}; {_WORDS}; {_WORDS}"),
        "black": scorer.prepare(plain(0)),
        "white": scorer.prepare(plain(255)),
    }


def mixed_batch(
    photograph: PreparedImage, around: Sequence[PreparedImage], size: int, place: int
) -> list[PreparedImage]:
    """A micro-batch of ``size``: the photograph at index ``place``, one of each around, more of the first."""
    batch = list(islice(chain(around, repeat(around[0])), size - 1))
    batch.insert(place, photograph)
    return batch


def companies(
    scorer: Scorer, photograph: PreparedImage, batches: Sequence[int]
) -> Iterator[tuple[str, list[PreparedImage], int]]:
    """Every company to put a photograph into: its name, the micro-batch, and the photograph's place in it."""
    yield "alone", [photograph], 0
    around = neighbours(scorer)
    for kind, neighbour in around.items():
        for word, place in (("first", 0), ("last", 1)):
            yield f"beside {kind}, {word}", mixed_batch(photograph, [neighbour], 2, place), place
    mixed = list(around.values())
    for size in batches:
        for word, place in (("first", 0), ("middle", size // 2), ("last", size - 1)):
            yield f"batch {size}, {word}", mixed_batch(photograph, mixed, size, place), place


def measure(
    scorer: Scorer, photograph: PreparedImage, batches: Sequence[int], *, settings: bool = False
) -> Moved:
    """Score a photograph in every company.

    Args:
        scorer: Under any template that has a score.
        photograph: The one to watch.
        batches: Sizes of the mixed batches.
        settings: Also alone with two threads, and alone without oneDNN.
    """
    predictions = {
        name: scorer.predict(batch)[place] for name, batch, place in companies(scorer, photograph, batches)
    }
    if settings:
        with _threads(2):
            (predictions["2 threads"],) = scorer.predict([photograph])
        with _without_onednn():
            (predictions["no oneDNN"],) = scorer.predict([photograph])
    return Moved(predictions)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
