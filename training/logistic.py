"""The curve that video quality experts lay through a scatter plot before they take Pearson's correlation."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from training.figures import Numbers

FEWEST_POINTS = 5
"""Four parameters go through four points exactly."""

_MOST_STEPS = 10_000
_SMALLEST_WIDTH = 1e-12  # a width of zero is a step; the optimiser may pass through it


def logistic_mapped(predicted: Numbers, true: Numbers) -> Numbers | None:
    """Map predictions by the 4-parameter logistic of VQEG (FR-TV phase I, 2000) that fits the truth best.

    f(x) = low + (high − low) / (1 + exp(−(x − centre) / |width|)), least squares. It forgives a model that
    spreads its scores otherwise than people do, so a correlation after it must never stand without its label.

    Args:
        predicted: (n,) scores.
        true: (n,) the mean opinions.

    Returns:
        (n,) mapped predictions; None where there is no such curve: fewer than ``FEWEST_POINTS`` points, a
        side that never changes, no convergence, or a curve that falls (it would turn a wrong order into a
        right one).
    """
    if len(predicted) < FEWEST_POINTS or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return None
    start = (true.max(), true.min(), predicted.mean(), predicted.std())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # of the parameters' covariance, not used here
            found, _ = curve_fit(_logistic, predicted, true, p0=start, maxfev=_MOST_STEPS)
    except RuntimeError:  # scipy's word for no convergence
        return None
    mapped: NDArray[np.float64] = _logistic(predicted, *found)
    rises = found[0] > found[1] and np.ptp(mapped) > 0
    return mapped if rises and bool(np.isfinite(mapped).all()) else None


def _logistic(x: Numbers, high: float, low: float, centre: float, width: float) -> Numbers:
    return low + (high - low) * expit((x - centre) / max(abs(width), _SMALLEST_WIDTH))
