from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.manifest import ScoreScale
from schemas.records import Prediction
from training.bootstrap import Estimate, estimates
from training.evaluate import compare_decoders, evaluate_predictions, score_coverage, source_numbers
from training.evaluation import ParsedTarget, Parsing, TargetEvaluation
from training.figures import mean, srcc

NATIVE = ScoreScale(native_low=1, native_high=5)
MOS = [1.0, 2.0, 1.5, 4.5, 3.0, 4.0]
EXPOSURES = [
    "overexposed",
    "slightly underexposed",
    "properly exposed",
    "underexposed",
    "properly exposed",
    "properly exposed",
]
COMPOSITIONS = [1, 5, 9, 10, 2, 2]


def labels() -> list[Annotation]:
    rows = zip(MOS, EXPOSURES, COMPOSITIONS, strict=True)
    return [
        Annotation(image=f"{index}.jpg", mos=mos, exposure=exposure, composition=c)
        for index, (mos, exposure, c) in enumerate(rows)
    ]


def perfect() -> list[Prediction]:
    return [
        Prediction(
            score=(label.mos - 1) * 2.5,
            score_std=0.5,
            score_native=label.mos,
            exposure=label.exposure,
            composition=label.composition,
        )
        for label in labels()
        if label.mos is not None
    ]


def target(predictions: list[Prediction], name: str) -> TargetEvaluation:
    found = evaluate_predictions(predictions, labels(), VOCABULARY, NATIVE)
    return next(one for one in found.targets if one.target == name)


def test_a_perfect_prediction_has_correlation_one_and_no_error_on_the_scale_of_ten() -> None:
    found = evaluate_predictions(perfect(), labels(), VOCABULARY, NATIVE)
    assert [(t.target, t.images, t.sources) for t in found.targets] == [
        ("score", 6, 6),
        ("composition", 6, 6),
        ("exposure", 6, 6),
    ]
    for one in found.targets:
        assert one.decided.srcc.value == pytest.approx(1)
        assert one.decided.plcc.value == pytest.approx(1)
        assert one.decided.rmse.value == pytest.approx(0)


def test_errors_of_the_score_are_in_points_of_ten_whatever_the_native_scale() -> None:
    off = [replace(said, score=(said.score or 0) + 0.5) for said in perfect()]
    assert target(off, "score").decided.rmse.value == pytest.approx(0.5)


def test_labels_of_one_code_are_equal_in_codes_but_not_as_labels() -> None:
    swapped = {"overexposed": "underexposed", "underexposed": "overexposed"}
    found = target([Prediction(exposure=swapped.get(e, e)) for e in EXPOSURES], "exposure")
    assert found.decided.srcc.value == pytest.approx(1)
    assert found.labels is not None
    assert found.labels.accuracy.value == pytest.approx(4 / 6)


def test_saying_the_majority_label_always_is_seen_beside_the_accuracy() -> None:
    found = target([Prediction(exposure="properly exposed")] * 6, "exposure")
    assert (found.decided.srcc.value, found.decided.plcc.value) == (None, None)
    assert found.labels is not None
    assert found.labels.majority_label == "properly exposed"
    assert found.labels.accuracy.value == found.labels.majority_accuracy == 0.5


def test_expected_codes_and_confidences_are_measured_where_there_are_any() -> None:
    expected = [1.5, 1.0, 2.75, 1.25, 2.5, 3.0]
    predictions = [
        Prediction(exposure="properly exposed", exposure_expected=code, exposure_confidence=0.9)
        for code in expected
    ]
    found = target(predictions, "exposure")
    codes = [1, 2, 3, 1, 3, 3]
    assert found.expected is not None
    assert found.labels is not None
    assert found.expected.srcc.value == pytest.approx(spearmanr(expected, codes).statistic)
    assert found.expected.rmse.value == pytest.approx(
        np.sqrt(np.mean((np.array(expected) - np.array(codes)) ** 2))
    )
    assert found.labels.ece == pytest.approx(0.4)  # half are right, .9 was said
    assert target(perfect(), "exposure").expected is None


def test_coverage_of_deviations_made_by_hand() -> None:
    true = np.array([5.0, 5.0, 5.0, 5.0])
    score = np.array([5.25, 4.5, 6.5, 8.0])
    deviation = np.array([0.25, 0.25, 1.0, 1.0])
    one, two = score_coverage(score, deviation, true, np.arange(4))
    assert (one.deviations, one.share.value, one.gaussian) == (1, 0.25, 0.683)
    assert (two.deviations, two.share.value, two.gaussian) == (2, 0.75, 0.954)


def test_coverage_has_the_nominal_share_where_errors_are_gaussian() -> None:
    rng = np.random.default_rng(0)
    deviation = rng.uniform(0.2, 2.0, size=4000)
    for found in score_coverage(rng.normal(0, deviation), deviation, np.zeros(4000), np.arange(4000)):
        assert found.share.low is not None
        assert found.share.high is not None
        assert found.share.low < found.gaussian < found.share.high


def test_decoders_are_compared_with_the_tree_on_the_same_resamples() -> None:
    rng = np.random.default_rng(1)
    true, sources = rng.uniform(0, 10, size=60), np.arange(60) // 2
    tree = true + rng.normal(0, 0.5, size=60)
    readings = {"digit_tree": tree, "per_position": tree - 0.3, "greedy": tree + rng.normal(0, 1, size=60)}
    found = {one.decoder: one for one in compare_decoders(readings, true, sources)}
    assert found["digit_tree"].difference is None
    shifted = found["per_position"]
    assert shifted.difference is not None
    # A constant shift changes no rank, and its mean error by exactly the shift in every resample.
    assert (shifted.difference.srcc.low, shifted.difference.srcc.high) == pytest.approx((0, 0))
    error = shifted.difference.mean_error
    assert (error.value, error.low, error.high) == pytest.approx((-0.3, -0.3, -0.3))
    assert shifted.figures.mean_error == estimates([mean(tree - 0.3 - true)], sources)[0]
    worse = found["greedy"].difference
    assert worse is not None
    assert worse.srcc.value == pytest.approx(
        spearmanr(readings["greedy"], true).statistic - spearmanr(tree, true).statistic
    )
    assert worse.rmse.low is not None
    assert worse.rmse.low > 0


def test_readings_of_images_without_a_label_are_left_out() -> None:
    unlabelled = [*labels(), Annotation(image="z.jpg")]
    readings = {"digit_tree": [*(p.score or 0.0 for p in perfect()), 9.0]}
    found = evaluate_predictions(
        [*perfect(), Prediction(score=9.0)], unlabelled, VOCABULARY, NATIVE, readings
    )
    assert (found.images, found.targets[0].images) == (7, 6)
    assert found.decoders[0].figures.rmse.value == pytest.approx(0)


def test_images_of_one_source_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    true = np.repeat(rng.uniform(1, 9, size=20), 3)
    score = np.repeat(rng.uniform(1, 9, size=20), 3)
    said = [Prediction(score=float(value), score_std=1.0) for value in score]
    notes = [
        Annotation(image=f"{index}.jpg", source=f"s{index // 3}", mos=float(mos))
        for index, mos in enumerate(true)
    ]
    found = evaluate_predictions(said, notes, VOCABULARY, ScoreScale())
    assert (found.images, found.sources) == (60, 20)
    assert found.targets[0].decided.srcc == estimates([srcc(score, true)], np.arange(60) // 3)[0]


def test_an_image_without_a_source_stands_for_itself() -> None:
    notes = [
        Annotation(image="a.jpg", source="b.jpg"),
        Annotation(image="b.jpg"),
        Annotation(image="c.jpg", source="b.jpg"),
        Annotation(image="d.jpg"),
    ]
    assert source_numbers(notes).tolist() == [0, 1, 0, 2]


def test_the_scores_correlation_after_the_logistic_is_beside_the_raw_one() -> None:
    rng = np.random.default_rng(4)
    score = rng.uniform(0, 10, size=50)
    mos = 1 + 4 / (1 + np.exp(-(score - 5)))
    said = [Prediction(score=float(value), score_std=1.0) for value in score]
    notes = [Annotation(image=f"{row}.jpg", mos=float(value)) for row, value in enumerate(mos)]
    found = evaluate_predictions(said, notes, VOCABULARY, NATIVE).targets[0]
    assert found.decided.plcc.value is not None
    assert found.decided.plcc.value < 0.98
    assert found.plcc_logistic is not None
    assert found.plcc_logistic.value == pytest.approx(1, abs=1e-6)
    falling = [replace(one, score=10 - (one.score or 0)) for one in said]
    assert evaluate_predictions(falling, notes, VOCABULARY, NATIVE).targets[0].plcc_logistic == Estimate(None)


def test_attributes_have_pictures_and_follow_mos_even_without_labels_of_their_own() -> None:
    notes = [Annotation(image=note.image, mos=note.mos) for note in labels()]
    found = evaluate_predictions(perfect(), notes, VOCABULARY, NATIVE)
    assert [one.predicted for one in found.mos_correlations] == ["composition", "exposure"]
    assert [(p.image, p.mos, p.score) for p in found.points][:2] == [("0.jpg", 0, 0), ("1.jpg", 2.5, 2.5)]
    exposure = target(perfect(), "exposure").labels
    assert exposure is not None
    assert exposure.confusion is not None
    assert [row[index] for index, row in enumerate(exposure.confusion.counts)] == [1, 1, 0, 1, 3]


def test_targets_with_fewer_than_three_labels_are_left_out() -> None:
    found = evaluate_predictions(perfect()[:2], labels()[:2], VOCABULARY, NATIVE)
    assert (found.images, found.targets, found.coverage, found.decoders) == (2, (), (), ())


def test_a_manifest_gets_the_correlations_of_decided_values() -> None:
    predictions = [replace(said, composition=3) for said in perfect()]
    results = evaluate_predictions(predictions, labels(), VOCABULARY, NATIVE).results("toy")
    assert [(r.target, r.n, r.srcc) for r in results] == [
        ("score", 6, 1.0),
        ("composition", 6, None),
        ("exposure", 6, 1.0),
    ]
    assert {r.dataset for r in results} == {"toy"}


def test_predictions_and_labels_must_pair_up() -> None:
    with pytest.raises(ValueError):
        evaluate_predictions([Prediction()], labels(), VOCABULARY, NATIVE)


def test_without_deviations_nothing_is_said_of_coverage_and_all_else_is_as_before() -> None:
    bare = [replace(said, score_std=None) for said in perfect()]
    found = evaluate_predictions(bare, labels(), VOCABULARY, NATIVE)
    whole = evaluate_predictions(perfect(), labels(), VOCABULARY, NATIVE)
    assert (found.coverage, len(whole.coverage)) == ((), 2)
    assert [point.score_std for point in found.points] == [None] * len(MOS)
    assert found.targets == whole.targets


def test_ways_to_read_a_score_are_compared_with_the_first_whatever_it_is() -> None:
    true = np.arange(8.0)
    found = compare_decoders({"mean": true, "mode": true + 1}, true, np.arange(8))
    assert found[0].difference is None
    assert found[1].difference is not None
    assert found[1].difference.mean_error.value == pytest.approx(1)


def unread_of(values: list[str | None]) -> TargetEvaluation:
    parsing = Parsing(6, 2, 0, 512, (ParsedTarget("exposure", 2, 0, 0),))
    said = [Prediction(exposure=value) for value in values]
    found = evaluate_predictions(said, labels(), VOCABULARY, NATIVE, parsing=parsing)
    assert (found.parsing, [one.target for one in found.targets]) == (parsing, ["exposure"])
    return found.targets[0]


def test_labelled_images_without_a_value_are_counted_beside_those_with_one() -> None:
    found = unread_of([*EXPOSURES[:4], None, None])
    assert (found.images, found.sources, found.unread) == (4, 4, 2)
    assert found.labels is not None
    assert found.labels.accuracy.value == 1


def test_a_target_that_hardly_any_answer_holds_stands_there_without_figures() -> None:
    found = unread_of([*EXPOSURES[:2], None, None, None, None])
    assert (found.images, found.unread, found.decided.srcc, found.labels) == (2, 4, Estimate(None), None)
