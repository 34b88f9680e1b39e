from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from schemas.attributes import VOCABULARY
from training.demo.degradations import Severities
from training.demo.labels import Verdict, annotate, badness, sample_verdict

BEST = Verdict(
    Severities(), "complete", "uncluttered", "uncluttered", "taken straight", "clear", "properly exposed",
    "properly saturated",
)  # fmt: skip


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
        assert set(attribute.values) == set(counts), attribute.name


def test_the_same_seed_gives_the_same_labels() -> None:
    assert _annotations(50) == _annotations(50)
    assert _annotations(50) != _annotations(50, seed=1)


def test_an_untouched_photograph_gets_the_best_labels_and_a_high_score() -> None:
    annotation = annotate(BEST, "x", np.random.default_rng(0))
    assert annotation.composition == 10
    assert annotation.eye_catching == 10
    assert annotation.mos == pytest.approx(9.6, abs=0.5)
    assert set(badness(Severities()).values()) == {0.0}


@pytest.mark.parametrize(
    ("mild", "bad"),
    [
        (Severities(blur_px=1), Severities(blur_px=3)),
        (Severities(exposure_ev=0.8), Severities(exposure_ev=2)),
        (Severities(exposure_ev=-1.2), Severities(exposure_ev=-3)),
        (Severities(saturation_gain=1.7), Severities(saturation_gain=3.5)),
        (Severities(saturation_gain=0.5), Severities(saturation_gain=0.0)),
        (Severities(contrast_gain=0.8), Severities(contrast_gain=0.4)),
        (Severities(tilt_deg=-6), Severities(tilt_deg=-20)),
        (Severities(hidden=0.1), Severities(hidden=0.35)),
        (Severities(subject_pieces=3), Severities(subject_pieces=12)),
        (Severities(background_pieces=3), Severities(background_pieces=12)),
    ],
)
def test_worse_severities_lower_the_score(mild: Severities, bad: Severities) -> None:
    assert _mos(Severities()) > _mos(mild) > _mos(bad)
