"""How well predictions follow labels: SRCC and PLCC for the score and every evaluated attribute.

Attributes enter as ordinal codes, as in RealQA's Table 1. Predictions come from free-running decoding:
under teacher forcing the score follows the labels it is fed almost exactly, which measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr

from schemas.annotations import Annotation
from schemas.attributes import Vocabulary
from schemas.manifest import EvaluationResult
from schemas.records import Prediction

SCORE = "score"
_FEWEST = 3


def evaluate(
    predictions: Sequence[Prediction],
    labels: Sequence[Annotation],
    vocabulary: Vocabulary,
    dataset: str,
) -> tuple[EvaluationResult, ...]:
    """Compare predictions with labels, target by target.

    Args:
        predictions: Of every image, decided values.
        labels: Of the same images, in the same order.
        vocabulary: Codes of the labels.
        dataset: Name of the data, for the results.

    Returns:
        The score first, then the nine attributes by their decided values; targets with fewer than three
        pairs are left out, and a correlation is None where one side is constant.
    """
    pairs: dict[str, list[tuple[float, float]]] = {SCORE: []}
    for prediction, label in zip(predictions, labels, strict=True):
        if prediction.score_native is not None and label.mos is not None:
            pairs[SCORE].append((prediction.score_native, label.mos))
        for attribute in vocabulary.evaluated:
            codes = dict(zip(attribute.values, attribute.codes, strict=True))
            decided, true = getattr(prediction, attribute.name), getattr(label, attribute.name)
            if decided is not None and true is not None:
                pairs.setdefault(attribute.name, []).append((codes[str(decided)], codes[str(true)]))
    return tuple(
        correlation(dataset, target, found) for target, found in pairs.items() if len(found) >= _FEWEST
    )


def correlation(dataset: str, target: str, pairs: Sequence[tuple[float, float]]) -> EvaluationResult:
    """SRCC and PLCC of (prediction, label) pairs."""
    predicted, true = np.array(pairs, dtype=float).T
    srcc = plcc = None
    if np.ptp(predicted) > 0 and np.ptp(true) > 0:
        srcc = round(float(spearmanr(predicted, true).statistic), 4)
        plcc = round(float(pearsonr(predicted, true).statistic), 4)
    return EvaluationResult(dataset=dataset, target=target, n=len(pairs), srcc=srcc, plcc=plcc)
