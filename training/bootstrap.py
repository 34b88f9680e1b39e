"""How sure a figure is: percentile bootstrap intervals that draw sources, not images.

Pictures made of one photograph rise and fall together: drawn one by one they would count as evidence several
times, and intervals would come out too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.figures import Numbers, Statistic, figure

SEED = 0
RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
FEWEST_SOURCES = 5
"""With fewer there are hardly any different resamples, and no interval is given."""

_MOST_UNDEFINED = 0.05  # share of resamples in which a figure may not exist before there is no interval
_BLOCK_NUMBERS = 250_000  # weights held at a time: 2 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval.

    Attributes:
        value: The figure of the data; None where it does not exist (a correlation with a constant side).
        low, high: 2.5 and 97.5 percentiles over the resamples in which it exists; None where there are fewer
            than ``FEWEST_SOURCES`` sources, or the figure does not exist in more than 5 % of the resamples.
            Images drawn twice tie in rank: with few sources an SRCC may lie a hair outside its own interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


def estimates(
    statistics: Sequence[Statistic], sources: NDArray[np.int64], *, seed: int = SEED
) -> list[Estimate]:
    """Estimate several figures of the same images, all on the same resamples.

    Args:
        statistics: The figures.
        sources: (n,) number of every image's source. As many sources as there are are drawn, with
            replacement, each with all its images.
        seed: Same seed, same intervals.
    """
    values = [figure(statistic, len(sources)) for statistic in statistics]
    if len(np.unique(sources)) < FEWEST_SOURCES:
        return [Estimate(value) for value in values]
    draws: list[list[Numbers]] = [[] for _ in statistics]
    for weights in _resamples(sources, seed):
        for found, statistic in zip(draws, statistics, strict=True):
            found.append(statistic(weights))
    return [_estimate(value, np.concatenate(found)) for value, found in zip(values, draws, strict=True)]


def _estimate(value: float | None, draws: Numbers) -> Estimate:
    exists = ~np.isnan(draws)
    if value is None or exists.mean() < 1 - _MOST_UNDEFINED:
        return Estimate(value)
    low, high = np.percentile(draws[exists], PERCENTILES)
    return Estimate(value, float(low), float(high))


def _resamples(sources: NDArray[np.int64], seed: int) -> Iterator[Numbers]:
    """Weights of every image, (resamples, n), in blocks."""
    unique, source = np.unique(sources, return_inverse=True)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // len(sources))
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        drawn = rng.integers(len(unique), size=(rows, len(unique)))
        # One count over all rows: every row's sources are numbered on from those of the row before it.
        numbered = drawn + np.arange(rows)[:, None] * len(unique)
        counts = np.bincount(numbered.ravel(), minlength=rows * len(unique)).reshape(rows, -1)
        yield counts[:, source].astype(np.float64)
