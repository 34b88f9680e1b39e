from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from tests.training.pictures import toy_picture
from training.demo import unseen

PICTURE = toy_picture()
GREY = np.full((60, 80, 3), 128, np.uint8)


def _peppered(pixels, share):
    return unseen.salt_and_pepper(pixels, share, np.random.default_rng(0))


NEUTRAL: list[tuple[Callable, float]] = [
    (unseen.pixelate, 1),
    (_peppered, 0),
    (unseen.posterise, 256),
    (unseen.zoom_blur, 0),
    (unseen.haze, 0),
    (unseen.colour_cast, 0),
    (unseen.vignette, 0),
]


def _light(value: float) -> float:
    return ((value / 255 + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize(("function", "neutral"), NEUTRAL)
def test_the_neutral_value_changes_nothing_and_the_input_is_left_alone(function, neutral) -> None:
    before = PICTURE.copy()
    np.testing.assert_array_equal(function(PICTURE, neutral), PICTURE)
    function(PICTURE, 3 if neutral else 0.3)
    np.testing.assert_array_equal(PICTURE, before)


def test_every_block_is_one_colour_and_keeps_its_mean() -> None:
    found = unseen.pixelate(PICTURE, 5)
    assert found.shape == PICTURE.shape
    assert len(np.unique(found[5:10, 10:15].reshape(-1, 3), axis=0)) == 1
    np.testing.assert_allclose(found[7, 12], PICTURE[5:10, 10:15].mean(axis=(0, 1)), atol=1)


def test_a_block_at_the_edge_may_be_smaller() -> None:
    found = unseen.pixelate(PICTURE[:11, :13], 5)
    np.testing.assert_allclose(found[10, 12], PICTURE[10:11, 10:13].mean(axis=(0, 1)), atol=1)


def test_the_share_of_salt_and_pepper_is_its_number_half_white_half_black() -> None:
    found = _peppered(np.full((300, 300, 3), 128, np.uint8), 0.1)
    assert (found == 255).all(axis=2).mean() == pytest.approx(0.05, rel=0.1)
    assert (found == 0).all(axis=2).mean() == pytest.approx(0.05, rel=0.1)


def test_a_larger_share_hits_the_same_pixels_and_more() -> None:
    few, many = ((_peppered(GREY, share) != GREY).any(axis=2) for share in (0.05, 0.2))
    assert (many[few]).all()
    assert many.sum() > few.sum()


@pytest.mark.parametrize("levels", [2, 5, 16])
def test_every_channel_has_as_many_values_as_levels_black_and_white_among_them(levels: int) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    found = np.unique(unseen.posterise(ramp, levels))
    assert len(found) == levels
    assert (found[0], found[-1]) == (0, 255)


def test_zoom_blurs_the_edge_more_than_the_centre_and_more_with_its_strength() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    found = [unseen.zoom_blur(noise, strength).astype(float) for strength in (0.02, 0.08, 0.3)]
    assert found[1][40:50, 50:70].std() > 1.5 * found[1][:10, :20].std()
    assert all(less.std() > more.std() for less, more in pairwise(found))


def test_airlight_takes_its_share_of_linear_light() -> None:
    for share in (0.2, 0.7):
        found = unseen.haze(GREY, share)[0, 0, 0]
        assert _light(found) == pytest.approx(_light(128) * (1 - share) + share, rel=0.01)


def test_a_warm_lamp_reddens_a_cold_one_turns_blue_and_greys_keep_their_luminance() -> None:
    for mireds in (80, -80):
        red, green, blue = (_light(value) for value in unseen.colour_cast(GREY, mireds)[0, 0])
        assert (red > green > blue) if mireds > 0 else (red < green < blue)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue == pytest.approx(_light(128), rel=0.02)


def test_the_planckian_lamp_has_the_chromaticity_of_illuminant_a() -> None:
    # CIE 15, illuminant A is a radiator at 2856 K: x = 0.4476, y = 0.4074.
    x, y, z = np.linalg.inv(unseen._XYZ_TO_RGB) @ unseen._planckian(2856)
    assert (x / (x + y + z), y / (x + y + z)) == pytest.approx((0.4476, 0.4074), abs=1e-3)


@pytest.mark.parametrize("stops", [1.0, 3.0])
def test_a_corner_loses_as_many_stops_and_the_centre_none(stops: float) -> None:
    white = np.full((61, 81, 3), 200, np.uint8)
    found = unseen.vignette(white, stops)
    assert found[30, 40, 0] == 200
    for corner in (found[0, 0, 0], found[-1, -1, 0], found[0, -1, 0]):
        assert np.log2(_light(200) / _light(corner)) == pytest.approx(stops, abs=0.1)
