"""Composite weights: on numbers made by hand, and on 120 human scores of super-resolved photographs."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from model.scores import composite_score
from schemas.errors import ConfigurationError
from training.composite import CompositeFit, fit_composite, grouped_folds

METRICS = ("musiq", "arniqa", "qalign", "unique", "paq2piq")


def linear(noise: float = 0.0, count: int = 60) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = {name: rng.uniform(1, 4, size=count) for name in ("clarity", "exposure", "level")}
    feedback = 1.0 + 2.0 * codes["clarity"] - 0.5 * codes["exposure"] + rng.normal(0, noise, size=count)
    return codes, feedback, np.arange(count) // 2


@pytest.fixture(scope="module")
def human() -> CompositeFit:
    """Five metrics without a reference against human scores of 40 scenes, three methods each."""
    spec = find_spec("qualisr")
    assert spec is not None
    assert spec.origin is not None
    sample = Path(spec.origin).parent / "sample_data"
    with (sample / "features/nr.csv").open(encoding="utf-8") as file:
        features = {row["sample_id"].lower(): row for row in csv.DictReader(file)}
    with (sample / "scores/labels.csv").open(encoding="utf-8") as file:
        scores = list(csv.DictReader(file))
    rows = [features[f"{row['method']}:{row['test_case']}".lower()] for row in scores]
    codes = {name: np.array([float(row[name]) for row in rows]) for name in METRICS}
    scenes = np.unique([row["test_case"] for row in scores], return_inverse=True)[1]
    return fit_composite(codes, np.array([float(row["score"]) for row in scores]), scenes)


def test_human_scores_give_the_known_figures(human: CompositeFit) -> None:
    assert (human.images, human.sources, human.folds) == (120, 40, 5)
    assert human.candidates[2].components == 3
    assert human.candidates[2].srcc.value == pytest.approx(0.783, abs=0.01)
    assert human.best_input == "qalign"
    assert human.best_srcc.value == pytest.approx(0.787, abs=0.01)


def test_human_scores_do_not_pay_for_more_than_two_components_nor_beat_the_best_input(human) -> None:
    assert human.components == 2
    assert human.chosen.srcc.low < 0.783 < human.chosen.srcc.high
    assert human.gain.low < 0 < human.gain.high


def test_a_linear_truth_is_found_again_and_the_weights_give_it() -> None:
    codes, feedback, groups = linear()
    fit = fit_composite(codes, feedback, groups)
    assert fit.weights.intercept == pytest.approx(1.0, abs=0.05)
    assert fit.weights.weights == pytest.approx({"clarity": 2, "exposure": -0.5, "level": 0}, abs=0.02)
    said = [composite_score({name: row[at] for name, row in codes.items()}, fit.weights) for at in range(60)]
    assert said == pytest.approx(feedback, abs=0.1)
    assert fit.chosen.srcc.value > 0.99
    assert fit.best_input == "clarity"


def test_weights_are_those_of_plain_partial_least_squares_on_all_images() -> None:
    codes, feedback, groups = linear(noise=1.0)
    fit = fit_composite(codes, feedback, groups, max_components=1)
    matrix = np.column_stack(list(codes.values()))
    expected = PLSRegression(1).fit(matrix, feedback).predict(matrix).ravel()
    said = [composite_score({name: row[at] for name, row in codes.items()}, fit.weights) for at in range(60)]
    assert said == pytest.approx(expected)


def test_images_of_a_source_never_help_to_predict_each_other() -> None:
    # Feedback is a number of its source, and the inputs name the source: without grouping this is learnt.
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 10)
    codes = {f"is{source}": (groups == source).astype(float) for source in range(12)}
    feedback = rng.normal(size=12)[groups]
    together = fit_composite(codes, feedback, groups)
    alone = fit_composite(codes, feedback, np.arange(120))
    assert alone.chosen.srcc.value > 0.9
    assert together.chosen.srcc.value < 0.3


def test_folds_hold_whole_sources_and_are_nearly_equal() -> None:
    groups = np.repeat(np.arange(11), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 10])
    fold = grouped_folds(groups, 4)
    assert all(len(set(fold[groups == source])) == 1 for source in range(11))
    assert np.bincount(fold).tolist() == [10, 10, 10, 10]
    assert (fold == grouped_folds(groups, 4)).all()
    assert (grouped_folds(np.arange(50), 5, 0) != grouped_folds(np.arange(50), 5, 1)).any()


def test_more_components_than_the_inputs_carry_are_not_tried() -> None:
    codes, feedback, groups = linear(noise=0.1)
    twice = {**codes, "again": codes["clarity"] * 2 + 1}
    assert len(fit_composite(twice, feedback, groups, max_components=9).candidates) == 3


def test_an_input_that_never_changes_gets_no_weight_and_is_named() -> None:
    codes, feedback, groups = linear(noise=0.1)
    fit = fit_composite({**codes, "still": np.full(60, 3.0)}, feedback, groups)
    assert fit.constant == ("still",)
    assert "still" not in fit.weights.weights


def test_a_best_input_that_falls_is_compared_by_size() -> None:
    codes, feedback, groups = linear(noise=0.5)
    fit = fit_composite({"clarity": codes["clarity"]}, -feedback, groups)
    assert fit.best_srcc.value < -0.9
    assert fit.gain.value == pytest.approx(0, abs=0.02)


def test_missing_numbers_constant_feedback_and_too_few_sources_are_said_at_once() -> None:
    codes, _, _ = linear()
    codes["clarity"][[3, 5]] = np.nan
    with pytest.raises(ConfigurationError) as caught:
        fit_composite(codes, np.full(60, 4.0), np.arange(60) // 30)
    assert caught.value.reasons == (
        "clarity: 2 of 60 numbers are missing",
        "the feedback is the same for every image",
        "5 folds need as many sources or more; there are 2",
    )


def test_inputs_that_all_stand_still_are_refused() -> None:
    _, feedback, groups = linear()
    with pytest.raises(ConfigurationError, match="nothing to weigh"):
        fit_composite({"still": np.full(60, 3.0)}, feedback, groups)
