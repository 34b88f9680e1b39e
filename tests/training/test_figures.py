"""Figures under weights against scipy on the images themselves, drawn as often as they weigh."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from training.figures import (
    Numbers,
    Statistic,
    difference,
    ece,
    ece_if_calibrated,
    figure,
    mean,
    plcc,
    rmse,
    srcc,
)

PEERS: list[tuple[Callable[[Numbers, Numbers], Statistic], Callable[[Numbers, Numbers], float]]] = [
    (srcc, lambda one, other: float(spearmanr(one, other).statistic)),
    (plcc, lambda one, other: float(pearsonr(one, other).statistic)),
    (rmse, lambda one, other: float(np.sqrt(np.mean((one - other) ** 2)))),
]


def values(ties: bool, seed: int = 0) -> tuple[Numbers, Numbers]:
    rng = np.random.default_rng(seed)
    one = rng.normal(6, 2, size=40)
    other = one + rng.normal(0, 2, size=40)
    return (one.round(), other.round()) if ties else (one, other)


@pytest.mark.parametrize(("ours", "theirs"), PEERS)
@pytest.mark.parametrize("ties", [False, True])
def test_a_weight_is_an_image_drawn_that_often(ours, theirs, ties: bool) -> None:
    one, other = values(ties)
    weights = np.random.default_rng(1).integers(0, 4, size=(5, 40))
    found = ours(one, other)(weights.astype(float))
    for row, counts in enumerate(weights):
        expected = theirs(np.repeat(one, counts), np.repeat(other, counts))
        assert found[row] == pytest.approx(expected, abs=1e-12)
    assert figure(ours(one, other), 40) == pytest.approx(theirs(one, other), abs=1e-12)


@pytest.mark.parametrize("ours", [srcc, plcc])
def test_a_correlation_with_a_constant_side_does_not_exist(ours) -> None:
    constant, rising = np.full(7, 0.1), np.arange(7.0)
    assert figure(ours(constant, rising), 7) is None
    assert figure(ours(rising, constant), 7) is None
    drawn_alike = np.array([[3.0, 0, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0, 1]])
    assert np.isnan(ours(rising, rising)(drawn_alike)).tolist() == [True, False]


def test_means_and_paired_differences() -> None:
    right = mean(np.array([1.0, 0.0, 1.0]))
    assert figure(right, 3) == pytest.approx(2 / 3)
    gap = difference(right, mean(np.array([0.5, 0.5, 0.5])))
    assert gap(np.array([[1.0, 3.0, 0.0], [2.0, 0.0, 2.0]])).tolist() == [-0.25, 0.5]


def test_ece_of_confidences_made_by_hand() -> None:
    # Bin (.6, .667]: two of four right. Bin (.933, 1]: both right. All others are empty.
    confidence = np.array([0.65, 0.65, 0.65, 0.65, 0.95, 1.0])
    correct = np.array([True, True, False, False, True, True])
    assert ece(confidence, correct) == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.025)


def test_errors_of_one_bin_cancel_and_those_of_two_do_not() -> None:
    correct = np.array([True, False])
    assert ece(np.array([0.49, 0.51]), correct) == pytest.approx(0.0)
    assert ece(np.array([0.4, 0.6]), correct) == pytest.approx(0.6)


def test_a_bin_holds_its_upper_end() -> None:
    # 3/15 and 2.5/15 share the third bin: their errors cancel there.
    confidence = np.array([3 / 15, 2.5 / 15])
    assert ece(confidence, np.array([True, False])) == pytest.approx(abs(1 - 5.5 / 15) / 2)


def test_chance_alone_leaves_calibrated_confidences_an_ece_that_shrinks_with_more_images() -> None:
    few, many = ece_if_calibrated(np.full(25, 0.5)), ece_if_calibrated(np.full(2500, 0.5))
    # One bin: the mean of |binomial share − .5|, √(2/π) · .5/√n.
    assert few == pytest.approx(0.0798, abs=0.01)
    assert many == pytest.approx(0.00798, abs=0.001)
    assert ece_if_calibrated(np.ones(25)) == 0.0
