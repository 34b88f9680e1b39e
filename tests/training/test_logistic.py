from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from training.logistic import logistic_mapped


def bent(seed: int = 0, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(0, 10, size=count)
    return predicted, 1 + 8 / (1 + np.exp(-(predicted - 4) / 0.6))


def test_a_logistic_truth_is_found_again() -> None:
    predicted, true = bent()
    mapped = logistic_mapped(predicted, true)
    assert mapped is not None
    assert mapped == pytest.approx(true, abs=1e-4)
    assert pearsonr(predicted, true).statistic < 0.95


def test_the_curve_never_changes_the_order() -> None:
    predicted, true = bent()
    mapped = logistic_mapped(predicted, true + np.random.default_rng(1).normal(0, 1, size=80))
    assert mapped is not None
    assert (np.diff(mapped[np.argsort(predicted)]) >= 0).all()


def test_a_falling_relation_is_not_turned_into_a_rising_one() -> None:
    predicted, true = bent()
    assert logistic_mapped(-predicted, true) is None


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        (np.arange(4.0), np.arange(4.0)),
        (np.full(9, 5.0), np.arange(9.0)),
        (np.arange(9.0), np.full(9, 5.0)),
    ],
)
def test_too_few_points_or_a_constant_side_have_no_curve(predicted, true) -> None:
    assert logistic_mapped(predicted, true) is None


def test_no_convergence_is_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, true = bent()
    monkeypatch.setattr("training.logistic._MOST_STEPS", 1)
    assert logistic_mapped(predicted, true) is None


def test_a_step_is_fitted_without_a_warning() -> None:
    predicted = np.repeat([0.0, 10.0], 10)
    mapped = logistic_mapped(predicted, predicted / 2 + 1)
    assert mapped is not None
    assert mapped == pytest.approx(predicted / 2 + 1, abs=1e-3)
