from __future__ import annotations

import math

import pytest

from schemas.records import Prediction
from training.video_prediction import video_prediction

TWO = [
    Prediction(
        score=4.0,
        score_std=0.3,
        score_greedy=4.1,
        score_native=40.0,
        composite_score=1.0,
        exposure="overexposed",
        exposure_expected=1.2,
        exposure_confidence=0.9,
        composition=3,
        reasons="dark",
        format_mass=0.9,
        context_used="a tree",
    ),
    Prediction(
        score=6.0,
        score_std=0.5,
        score_greedy=6.1,
        score_native=60.0,
        composite_score=2.0,
        exposure="underexposed",
        exposure_expected=2.0,
        exposure_confidence=0.4,
        composition=5,
        format_mass=0.7,
        context_used="a tree",
    ),
]


def test_numbers_of_a_video_are_means_over_its_frames() -> None:
    said = video_prediction(TWO)
    assert (said.score, said.score_native, said.composite_score) == (5.0, 50.0, 1.5)
    assert said.exposure_expected == pytest.approx(1.6)
    assert said.format_mass == 0.7
    assert said.context_used == "a tree"


def test_the_deviation_holds_what_frames_are_unsure_of_and_how_they_differ() -> None:
    assert video_prediction(TWO).score_std == pytest.approx(math.sqrt((0.3**2 + 0.5**2) / 2 + 1.0))
    assert video_prediction([TWO[0]] * 5).score_std == pytest.approx(0.3)  # no surer for being asked again


def test_a_value_is_the_one_with_the_most_confidence_and_has_none_of_its_own() -> None:
    frames = [TWO[0], TWO[1], TWO[1]]
    said = video_prediction(frames)
    assert (said.exposure, said.exposure_confidence) == ("overexposed", None)  # .9 against twice .4
    assert said.composition == 5  # without confidences the most frequent


def test_words_and_what_was_written_belong_to_frames() -> None:
    said = video_prediction(TWO)
    assert (said.reasons, said.score_greedy) == (None, None)


def test_what_some_frames_lack_is_of_the_others_and_what_all_lack_is_left_out() -> None:
    said = video_prediction([Prediction(score=4.0, exposure="overexposed"), Prediction()])
    assert (said.score, said.score_std, said.exposure, said.saturation) == (4.0, None, "overexposed", None)
    assert video_prediction([Prediction(), Prediction()]) == Prediction()


def test_a_single_frame_is_taken_as_it_is() -> None:
    assert video_prediction(TWO[:1]) is TWO[0]
