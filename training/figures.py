"""Figures of agreement as functions of weights, so that a bootstrap can draw images without moving them.

A ``Statistic`` takes weights (resamples, n): how often every image was drawn. Weighing an image twice is the
same as having it twice, ranks included, so one call answers for all resamples at once; weights of one give
the figure of the data itself. Where a figure does not exist (a correlation with a constant side) it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]

ECE_BINS = 15

_CONSTANT_VARIANCE = 1e-9  # of values scaled to about one: what rounding leaves of no variance at all
_CALIBRATED_DRAWS, _CALIBRATED_SEED = 200, 0


def mean(values: Numbers) -> Statistic:
    """Weighted mean of (n,) values; of true and false, the share of true."""
    return lambda weights: _mean(weights, values)


def rmse(predicted: Numbers, true: Numbers) -> Statistic:
    """Root of the mean squared difference, in the unit of both."""
    squares = (predicted - true) ** 2
    return lambda weights: np.sqrt(_mean(weights, squares))


def plcc(predicted: Numbers, true: Numbers) -> Statistic:
    """Pearson's correlation."""
    one, other = _standardised(predicted), _standardised(true)
    return lambda weights: _correlation(weights, one, other)


def srcc(predicted: Numbers, true: Numbers) -> Statistic:
    """Spearman's correlation; equal values share the mean of their ranks."""
    one, other = _Ranks(predicted), _Ranks(true)
    return lambda weights: _correlation(weights, one(weights), other(weights))


def difference(statistic: Statistic, other: Statistic) -> Statistic:
    """``statistic − other``, resample by resample: paired."""
    return lambda weights: statistic(weights) - other(weights)


def figure(statistic: Statistic, images: int) -> float | None:
    """A statistic of the data itself, ``images`` long; None where it does not exist."""
    value = float(statistic(np.ones((1, images)))[0])
    return None if np.isnan(value) else value


def ece(confidence: Numbers, correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: Σ over bins of (bin's share of images) · |accuracy − mean confidence|.

    15 bins of equal width, each open below and closed above, as in Guo et al., On Calibration of Modern
    Neural Networks, ICML 2017, section 2. Never negative, so chance alone keeps it above zero: read it beside
    ``ece_if_calibrated``.

    Args:
        confidence: (n,) probabilities of the decided values.
        correct: (n,) whether they were right; or (draws, n), then the mean over draws.
    """
    bins = confidence_bins(confidence)
    gaps = (correct - confidence) @ np.eye(ECE_BINS)[bins]
    return float(np.abs(gaps).sum(-1).mean() / len(confidence))


def confidence_bins(confidence: Numbers) -> NDArray[np.int64]:
    """Number of the bin of every confidence, (n,), 0 to 14: of equal width, open below and closed above."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def ece_if_calibrated(confidence: Numbers) -> float:
    """The ECE to expect at these confidences if every one of them were exactly right.

    Mean over 200 draws of what is correct, images independent of each other; images of one source are not,
    so for such data this is a little low.
    """
    draws = np.random.default_rng(_CALIBRATED_SEED).random((_CALIBRATED_DRAWS, len(confidence)))
    return ece(confidence, draws < confidence)


class _Ranks:
    """Ranks of fixed values under changing weights, divided by n. Sorts once."""

    def __init__(self, values: Numbers) -> None:
        unique, self._place = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._place, kind="stable")
        self._starts = np.searchsorted(self._place[self._order], np.arange(len(unique)))

    def __call__(self, weights: Numbers) -> Numbers:
        """(resamples, n) mean rank of every image's value among all that were drawn."""
        tied = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        ranks = np.cumsum(tied, axis=1) - tied / 2
        return ranks[:, self._place] / weights.shape[1]


def _standardised(values: Numbers) -> Numbers:
    spread = float(np.std(values))
    return (values - values.mean()) / (spread if np.ptp(values) > 0 else 1.0)


def _mean(weights: Numbers, values: Numbers) -> Numbers:
    """(resamples,) weighted means of values that are (n,), or (resamples, n)."""
    total = weights.sum(1)
    return (weights @ values if values.ndim == 1 else np.einsum("rn,rn->r", weights, values)) / total


def _correlation(weights: Numbers, one: Numbers, other: Numbers) -> Numbers:
    mean_one, mean_other = _mean(weights, one), _mean(weights, other)
    variance_one = _mean(weights, one * one) - mean_one**2
    variance_other = _mean(weights, other * other) - mean_other**2
    covariance = _mean(weights, one * other) - mean_one * mean_other
    exists = (variance_one > _CONSTANT_VARIANCE) & (variance_other > _CONSTANT_VARIANCE)
    scale = np.sqrt(np.where(exists, variance_one * variance_other, 1.0))
    return np.where(exists, np.clip(covariance / scale, -1.0, 1.0), np.nan)
