from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.training.pictures import toy_picture
from training.demo.degradations import Severities, degrade

PICTURE = toy_picture()
PIECES = (toy_picture(1, 32, 32), toy_picture(2, 32, 32))
EVERYTHING = Severities(1.5, "motion", -1.0, 1.7, 0.6, 12.0, 0.1, 4, 9)


def _apply(severities: Severities, seed: int = 0, **more):
    return degrade(PICTURE, severities, np.random.default_rng(seed), pieces=PIECES, **more)


def _detail(pixels) -> float:
    return float(np.abs(np.diff(pixels.astype(float).mean(axis=2), axis=1)).mean())


def _colour(pixels) -> float:
    return float(np.ptp(pixels.astype(float), axis=2).mean())


def _rising(values) -> bool:
    return all(a < b for a, b in pairwise(values))


def test_nothing_done_changes_nothing() -> None:
    np.testing.assert_array_equal(_apply(Severities()), PICTURE)


def test_the_same_seed_gives_the_same_picture_and_the_input_is_left_alone() -> None:
    before = PICTURE.copy()
    np.testing.assert_array_equal(_apply(EVERYTHING), _apply(EVERYTHING))
    assert (_apply(EVERYTHING) != _apply(EVERYTHING, seed=1)).any()
    np.testing.assert_array_equal(PICTURE, before)


@pytest.mark.parametrize("kind", ["focus", "motion"])
def test_more_blur_leaves_less_detail(kind) -> None:
    details = [_detail(_apply(Severities(blur_px=b, blur_kind=kind))) for b in (4.0, 2.0, 0.9, 0.0)]
    assert _rising(details)


def test_blur_is_measured_in_model_pixels() -> None:
    half = _apply(Severities(blur_px=1.0), scale=2.0)
    np.testing.assert_array_equal(half, _apply(Severities(blur_px=2.0)))


def test_exposure_rises_with_its_stops_and_doubles_linear_light() -> None:
    means = [float(_apply(Severities(exposure_ev=ev)).mean()) for ev in (-3, -1, 0, 1, 2.5)]
    assert _rising(means)
    grey = np.full((28, 28, 3), 100, np.uint8)
    brighter = degrade(grey, Severities(exposure_ev=1.0), np.random.default_rng(0))
    linear = [((value / 255 + 0.055) / 1.055) ** 2.4 for value in (100, int(brighter[0, 0, 0]))]
    assert linear[1] / linear[0] == pytest.approx(2, rel=0.02)


def test_colour_rises_with_the_saturation_gain_and_zero_is_grey() -> None:
    colours = [_colour(_apply(Severities(saturation_gain=g))) for g in (0, 0.5, 1, 1.8, 3)]
    assert _rising(colours)
    assert colours[0] <= 1


def test_saturation_keeps_luminance() -> None:
    luma = np.array([0.299, 0.587, 0.114])
    before, after = PICTURE @ luma, _apply(Severities(saturation_gain=0.4)) @ luma
    assert np.abs(before - after).max() < 1.5


def test_contrast_shrinks_the_spread() -> None:
    assert _rising([float(_apply(Severities(contrast_gain=g)).std()) for g in (0.3, 0.6, 1.0)])


@pytest.mark.parametrize("degrees", [-25, -10, 5, 20, 44])
def test_a_tilted_picture_has_no_empty_corner_and_its_aspect(degrees) -> None:
    white = np.full((200, 320, 3), 255, np.uint8)
    tilted = degrade(white, Severities(tilt_deg=degrees), np.random.default_rng(0))
    assert tilted.min() > 250
    assert tilted.shape[1] / tilted.shape[0] == pytest.approx(1.6, rel=0.05)


def test_more_is_hidden_with_a_larger_share() -> None:
    changed = [(_apply(Severities(hidden=h)) != PICTURE).any(axis=2).mean() for h in (0.05, 0.15, 0.35)]
    assert changed == pytest.approx([0.05, 0.15, 0.35], rel=0.15)


def test_subject_clutter_lies_inside_and_background_clutter_outside() -> None:
    inner = np.zeros(PICTURE.shape[:2], bool)
    height, width = inner.shape
    inner[height // 4 : -height // 4, width // 4 : -width // 4] = True
    for severities, central in (
        (Severities(subject_pieces=10), True),
        (Severities(background_pieces=10), False),
    ):
        changed = (_apply(severities) != PICTURE).any(axis=2)
        assert changed.any()
        assert bool(changed[inner].mean() > changed[~inner].mean()) is central


def test_more_pieces_change_more() -> None:
    changed = [(_apply(replace(Severities(), background_pieces=n)) != PICTURE).mean() for n in (0, 3, 12)]
    assert _rising(changed)
