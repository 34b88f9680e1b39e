from __future__ import annotations

import numpy as np
import pytest

from training.bootstrap import FEWEST_SOURCES, Estimate, estimates
from training.figures import mean, srcc


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def drawn(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, 2.0, size=count)


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    values = drawn(400)
    (found,) = estimates([mean(values)], np.arange(400))
    margin = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - margin, abs=0.1 * margin)
    assert found.high == pytest.approx(values.mean() + margin, abs=0.1 * margin)


def test_copies_of_one_source_do_not_shrink_the_interval() -> None:
    values = drawn(40)
    copies, sources = np.repeat(values, 9), np.repeat(np.arange(40), 9)
    (plain,) = estimates([mean(values)], np.arange(40))
    (grouped,) = estimates([mean(copies)], sources)
    (one_by_one,) = estimates([mean(copies)], np.arange(360))
    assert width(grouped) == pytest.approx(width(plain))
    assert width(one_by_one) == pytest.approx(width(plain) / 3, rel=0.15)


def test_sources_of_different_size_are_drawn_whole() -> None:
    # The large source says 1 ten times, the five small ones 0: drawn k times of 6, it is 10k of 10k + 6 − k.
    sources = np.array([7] * 10 + [0, 1, 2, 3, 4])
    (found,) = estimates([mean((sources == 7).astype(float))], sources)
    assert found.value == pytest.approx(10 / 15)
    assert found.low == 0.0
    assert found.high == pytest.approx(30 / 33)


def test_the_same_seed_gives_the_same_interval_whatever_else_is_estimated() -> None:
    values, sources = drawn(30), np.arange(30)
    alone = estimates([mean(values)], sources)
    beside = estimates([srcc(values, values**2), mean(values)], sources)
    assert alone[0] == beside[1]
    assert estimates([mean(values)], sources, seed=1) != alone


def test_too_few_sources_give_a_figure_without_an_interval() -> None:
    sources = np.repeat(np.arange(FEWEST_SOURCES - 1), 20)
    assert estimates([mean(np.arange(len(sources), dtype=float))], sources) == [
        Estimate(pytest.approx((len(sources) - 1) / 2))
    ]


def test_a_figure_that_many_resamples_lack_has_no_interval() -> None:
    odd_one = np.array([1.0] + [0.0] * 29)
    found = estimates([srcc(odd_one, drawn(30)), srcc(np.zeros(30), drawn(30))], np.arange(30))
    assert found[0].value is not None
    assert (found[0].low, found[0].high) == (None, None)
    assert found[1] == Estimate(None)
