from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from schemas.attributes import VOCABULARY
from training.demo.degradations import Severities
from training.demo.labels import (
    LEVEL_DEG,
    SUBJECT_SHARE,
    UNTOUCHED_SHARE,
    Verdict,
    annotate,
    badness,
    sample_verdict,
)

BEST = Verdict(
    severities=Severities(),
    has_subject=True,
    subject_integrity="complete",
    subject_clutter="uncluttered",
    background_clutter="uncluttered",
    level_shot="taken straight",
    image_clarity="clear",
    exposure="properly exposed",
    saturation="properly saturated",
)


def _annotations(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [annotate(sample_verdict(rng), f"{i}.jpg", rng) for i in range(count)]


def _mos(severities: Severities) -> float:
    scores = [
        annotate(replace(BEST, severities=severities), "x", np.random.default_rng(seed)).mos
        for seed in range(8)
    ]
    return float(np.mean(scores))


def test_every_picture_has_all_nine_attributes_and_a_score_and_the_vocabulary_knows_them() -> None:
    for annotation in _annotations(300):
        assert annotation.problems(VOCABULARY) == []
        assert all(getattr(annotation, a.name) is not None for a in VOCABULARY.evaluated)
        assert 0 <= annotation.mos < 10


def test_every_label_occurs() -> None:
    annotations = _annotations(1500)
    for attribute in VOCABULARY.evaluated:
        counts = Counter(str(getattr(a, attribute.name)) for a in annotations)
        # The formulas of the integers end just above 1.
        assert set(attribute.values) - {"1"} <= set(counts), attribute.name


def test_the_same_seed_gives_the_same_labels() -> None:
    assert _annotations(50) == _annotations(50)
    assert _annotations(50) != _annotations(50, seed=1)


def test_an_untouched_photograph_gets_the_best_labels_and_a_high_score() -> None:
    annotation = annotate(BEST, "x", np.random.default_rng(0))
    assert annotation.composition == 10
    assert annotation.eye_catching == 10
    assert annotation.mos == pytest.approx(9.6, abs=0.5)
    assert set(badness(Severities()).values()) == {0.0}


def _verdicts(count: int = 2000) -> list[Verdict]:
    rng = np.random.default_rng(3)
    return [sample_verdict(rng) for _ in range(count)]


def test_a_best_label_means_that_nothing_of_its_kind_was_done() -> None:
    for verdict in _verdicts():
        done = verdict.severities
        assert (verdict.level_shot == "taken straight") is (abs(done.tilt_deg) <= LEVEL_DEG)
        assert (verdict.exposure == "properly exposed") is (done.exposure_ev == 0 and done.clipped == 0)
        assert (verdict.saturation == "properly saturated") is (done.saturation_gain == 1)
        assert (verdict.subject_integrity == "complete") is (done.cut == 0)
        assert (verdict.subject_clutter == "uncluttered") is (done.subject_pieces == 0)
        assert (verdict.background_clutter == "uncluttered") is (done.background_pieces == 0)
        clear = done.blur_px == 0 and done.noise_levels == 0 and done.jpeg_quality >= 85
        assert (verdict.image_clarity == "clear") is clear


def test_about_as_many_pictures_as_stated_are_untouched_altogether() -> None:
    badnesses = [badness(replace(verdict.severities, off_centre=0.0)) for verdict in _verdicts()]
    untouched = np.mean([set(bad.values()) == {0.0} for bad in badnesses])
    assert untouched == pytest.approx(UNTOUCHED_SHARE, abs=0.02)


def test_without_a_subject_there_is_nothing_to_cut_or_to_clutter() -> None:
    without = [verdict for verdict in _verdicts() if not verdict.has_subject]
    assert len(without) / 2000 == pytest.approx(1 - SUBJECT_SHARE, abs=0.04)
    assert all(v.severities.cut == v.severities.subject_pieces == 0 for v in without)


def test_overexposure_comes_as_light_or_as_blown_highlights_never_as_both() -> None:
    over = [v.severities for v in _verdicts() if v.exposure.endswith("overexposed")]
    assert all((done.clipped > 0) is (done.exposure_ev == 0) for done in over)
    assert any(done.clipped for done in over)
    assert any(done.exposure_ev for done in over)


@pytest.mark.parametrize(
    ("mild", "bad"),
    [
        (Severities(blur_px=1), Severities(blur_px=3)),
        (Severities(noise_levels=10), Severities(noise_levels=50)),
        (Severities(jpeg_quality=25), Severities(jpeg_quality=4)),
        (Severities(exposure_ev=0.8), Severities(exposure_ev=2)),
        (Severities(exposure_ev=-1.2), Severities(exposure_ev=-3)),
        (Severities(clipped=0.12), Severities(clipped=0.4)),
        (Severities(saturation_gain=1.7), Severities(saturation_gain=3.5)),
        (Severities(saturation_gain=0.5), Severities(saturation_gain=0.0)),
        (Severities(contrast_gain=0.8), Severities(contrast_gain=0.4)),
        (Severities(tilt_deg=-6), Severities(tilt_deg=-20)),
        (Severities(off_centre=0.3), Severities(off_centre=0.7)),
        (Severities(cut=0.2), Severities(cut=0.6)),
        (Severities(subject_pieces=3), Severities(subject_pieces=9)),
        (Severities(background_pieces=3), Severities(background_pieces=15)),
    ],
)
def test_worse_severities_lower_the_score(mild: Severities, bad: Severities) -> None:
    assert _mos(Severities()) > _mos(mild) > _mos(bad)
    (changed,) = [name for name, value in badness(bad).items() if value]
    assert 0 < badness(mild)[changed] < badness(bad)[changed] <= 1
