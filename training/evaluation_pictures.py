"""What the pictures of an evaluation are drawn from: counts by label, and accuracy by confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluation import ConfusionMatrix, ReliabilityBin
from training.figures import ECE_BINS, Numbers, confidence_bins


def confusion_matrix(labels: Sequence[str], pairs: Iterable[tuple[object, object]]) -> ConfusionMatrix:
    """Count which label was decided where which one is true.

    Args:
        labels: All there are, in the order of rows and columns.
        pairs: The true and the decided value of every image.
    """
    times = Counter((str(true), str(decided)) for true, decided in pairs)
    counts = tuple(tuple(times[true, decided] for decided in labels) for true in labels)
    return ConfusionMatrix(tuple(labels), counts)


def reliability_bins(confidence: Numbers, correct: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Compare confidence and accuracy in the 15 bins of the ECE.

    Args:
        confidence: (n,) probabilities of the decided values.
        correct: (n,) whether they were right.

    Returns:
        The bins that hold images, from the least confident up.
    """
    bins = confidence_bins(confidence)
    return tuple(
        ReliabilityBin(
            low=number / ECE_BINS,
            high=(number + 1) / ECE_BINS,
            images=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(correct[inside].mean()),
        )
        for number in np.unique(bins).tolist()
        for inside in [bins == number]
    )
