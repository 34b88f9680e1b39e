from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.training.pictures import toy_picture
from training.demo.degradations import (
    Severities,
    blur,
    clip_highlights,
    degrade,
    jpeg,
    straightened_size,
    tilt,
)

PICTURE = toy_picture()
EVERYTHING = Severities(
    blur_px=1.5,
    blur_kind="motion",
    noise_levels=9.0,
    exposure_ev=-1.0,
    clipped=0.1,
    saturation_gain=1.7,
    contrast_gain=0.6,
)


def _apply(severities: Severities, seed: int = 0, **more):
    return degrade(PICTURE, severities, np.random.default_rng(seed), **more)


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


@pytest.mark.parametrize("kind", ["focus", "defocus", "motion"])
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


@pytest.mark.parametrize("kind", ["focus", "defocus", "motion"])
def test_every_kind_of_blur_spreads_a_point_by_about_its_deviation(kind) -> None:
    dot = np.zeros((81, 81, 3), np.uint8)
    dot[40, 40] = 255
    spread = np.asarray(blur(Image.fromarray(dot), 4.0, kind, np.random.default_rng(1)))[..., 0].astype(float)
    down, across = np.mgrid[-40:41, -40:41]
    # Over both axes together: motion spreads along one only, by sqrt(2) as much.
    deviation = np.sqrt((spread * (down**2 + across**2)).sum() / spread.sum() / 2)
    assert deviation == pytest.approx(4.0, rel=0.12)


def test_of_the_pixels_that_are_not_white_the_share_asked_for_leaves_the_range() -> None:
    rng = np.random.default_rng(2)
    colourful = rng.integers(0, 240, (60, 80, 3), dtype=np.uint8)
    white_ground = colourful.copy()
    white_ground[:, :40] = 255
    for pixels in (colourful, white_ground):
        for share in (0.1, 0.3, 0.5):
            dark = pixels.astype(float) @ [0.299, 0.587, 0.114] < 250
            clipped = clip_highlights(pixels, share)
            # What stays within the range is stretched by one factor.
            luminance = pixels[dark].astype(float) @ [0.299, 0.587, 0.114]
            factor = 255 / np.quantile(luminance, 1 - share)
            expected = np.clip(np.floor(pixels[dark] * factor + 0.5), 0, 255)
            np.testing.assert_allclose(clipped[dark], expected, atol=1)
            assert (luminance * factor >= 255).mean() == pytest.approx(share, abs=0.01)


def test_a_picture_that_is_all_white_cannot_be_clipped() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    assert (clip_highlights(white, 0.4) == white).all()


def test_blown_out_highlights_stay_white_in_a_flat_picture() -> None:
    flat = _apply(Severities(clipped=0.4, contrast_gain=0.5))
    assert (flat.max(axis=2) == 255).mean() > 0.38


def test_noise_has_the_deviation_in_model_pixels() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    for scale in (0.5, 1.0, 1.5):
        noisy = degrade(grey, Severities(noise_levels=10), np.random.default_rng(0), scale=scale)
        assert noisy.std() == pytest.approx(10 * max(scale, 1.0), rel=0.05)


def test_a_lower_jpeg_quality_is_a_smaller_file_further_away() -> None:
    files = [jpeg(PICTURE, quality) for quality in (95, 30, 12, 4)]
    assert _rising([len(file) for file in files][::-1])
    decoded = [np.asarray(Image.open(io.BytesIO(file))).astype(float) for file in files]
    assert _rising([float(np.square(pixels - PICTURE).mean()) for pixels in decoded])


@pytest.mark.parametrize("degrees", [-25, -10, 5, 20, 44])
def test_a_tilted_picture_has_no_empty_corner_and_its_aspect(degrees) -> None:
    tilted = np.asarray(tilt(Image.new("RGB", (320, 200), "white"), degrees))
    assert tilted.min() > 250
    assert tilted.shape[1] / tilted.shape[0] == pytest.approx(1.6, rel=0.05)
    width, height = straightened_size(320, 200, degrees)
    assert (width, height) == (
        pytest.approx(tilted.shape[1], abs=4),
        pytest.approx(tilted.shape[0], abs=4),
    )


def test_the_frame_of_a_straight_picture_can_be_cut_as_if_it_were_tilted() -> None:
    picture = Image.new("RGB", (320, 200), "white")
    assert tilt(picture, 0.5, 18.0).size == tilt(picture, 18.0).size == tilt(picture, -18.0, 3.0).size


def test_no_tilt_is_the_picture_itself() -> None:
    picture = Image.fromarray(PICTURE)
    assert tilt(picture, 0.0) is picture
