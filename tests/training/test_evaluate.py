from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.records import Prediction
from training.evaluate import correlation, evaluate

MOS = [1.0, 4.0, 3.0, 9.0]
EXPOSURES = ["overexposed", "slightly underexposed", "properly exposed", "underexposed"]


def _labels() -> list[Annotation]:
    rows = zip(MOS, EXPOSURES, [1, 5, 9, 10], strict=True)
    return [Annotation(image="x", mos=mos, exposure=exposure, composition=c) for mos, exposure, c in rows]


def test_a_perfect_prediction_has_correlation_one() -> None:
    predictions = [
        Prediction(score_native=label.mos, exposure=label.exposure, composition=label.composition)
        for label in _labels()
    ]
    results = evaluate(predictions, _labels(), VOCABULARY, "toy")
    assert [(r.target, r.n) for r in results] == [("score", 4), ("composition", 4), ("exposure", 4)]
    assert all(r.srcc == pytest.approx(1) and r.plcc == pytest.approx(1) for r in results)
    assert {r.dataset for r in results} == {"toy"}


def test_labels_of_one_code_count_as_equal() -> None:
    swapped = {"overexposed": "underexposed", "underexposed": "overexposed"}
    predictions = [Prediction(exposure=swapped.get(e, e)) for e in EXPOSURES]
    (exposure,) = evaluate(predictions, _labels(), VOCABULARY, "toy")
    assert exposure.srcc == pytest.approx(1)


def test_a_constant_prediction_has_no_correlation() -> None:
    result = correlation("toy", "score", [(5.0, mos) for mos in MOS])
    assert (result.srcc, result.plcc, result.n) == (None, None, 4)


def test_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    pairs = [(float(a), float(a + b)) for a, b in rng.normal(size=(50, 2))]
    result = correlation("toy", "score", pairs)
    predicted, true = zip(*pairs, strict=True)
    assert result.srcc == pytest.approx(spearmanr(predicted, true).statistic, abs=1e-4)
    assert result.plcc == pytest.approx(np.corrcoef(predicted, true)[0, 1], abs=1e-4)


def test_predictions_and_labels_must_pair_up() -> None:
    with pytest.raises(ValueError):
        evaluate([Prediction()], _labels(), VOCABULARY, "toy")
