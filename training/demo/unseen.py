"""Degradations that training never uses: what the model says of faults that nobody taught it.

Pure functions on uint8 RGB arrays; the number says how much, in the stated unit, and its neutral value gives
the picture back as it is. Each docstring names the attribute that the fault should move, by the words of the
attribute alone: *clarity* and *exposure* speak of such faults, and where no attribute does, only the score
should fall. Light is linear light by the sRGB curve (IEC 61966-2-1).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.demo.degradations import Pixels

Light = npt.NDArray[np.float64]
"""Linear light, 0 to 1, in the shape of the pixels."""

_DAYLIGHT_K = 6504.0
_XYZ_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def pixelate(pixels: Pixels, block_px: float) -> Pixels:
    """Replace every block by its mean, as a thumbnail that is enlarged without interpolation.

    Should move the clarity.

    Args:
        pixels: The picture.
        block_px: Side of a block, a whole number of px; 1 = unchanged.
    """
    block = round(block_px)
    if block <= 1:
        return pixels
    height, width = pixels.shape[:2]
    means = np.asarray(Image.fromarray(pixels).reduce(block))
    return means[np.arange(height) // block][:, np.arange(width) // block]


def salt_and_pepper(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Make single pixels white or black, half each: dead pixels, or bits lost (impulse noise).

    Definition: Gonzalez and Woods, Digital Image Processing, section 5.2. Should move the
    clarity, as the noise of training does.

    Args:
        pixels: The picture.
        share: Expected share of the pixels, 0 to 1; 0 = unchanged.
        rng: Decides which. From the same state, a larger share hits the same pixels and more.
    """
    hit = rng.random(pixels.shape[:2]) < share
    white = rng.random(pixels.shape[:2]) < 0.5
    noisy = pixels.copy()
    noisy[hit & white] = 255
    noisy[hit & ~white] = 0
    return noisy


def posterise(pixels: Pixels, levels: float) -> Pixels:
    """Round every channel to ``levels`` values from 0 to 255, evenly spaced: banding.

    Should move only the score.

    Args:
        pixels: The picture.
        levels: Values that a channel may have, a whole number of 2 or more; 256 = unchanged.
    """
    steps = round(levels) - 1
    table = np.round(np.round(np.arange(256) / 255 * steps) / steps * 255)
    return table.astype(np.uint8)[pixels]


def zoom_blur(pixels: Pixels, strength: float) -> Pixels:
    """Mean of the picture enlarged by 1 to 1 + ``strength`` about its centre: the lens zooms while exposing.

    Definition: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
    (arXiv 1903.12261), "zoom blur". Should move the clarity.

    Args:
        pixels: The picture.
        strength: Largest enlargement less 1; 0 = unchanged.
    """
    if not strength:
        return pixels
    picture = Image.fromarray(pixels)
    width, height = picture.size
    # A corner moves by at most a pixel from one copy to the next: else the copies show one by one.
    copies = math.ceil(strength * math.hypot(width, height) / 2) + 1
    total = np.zeros(pixels.shape, np.float64)
    for enlargement in np.linspace(1, 1 + strength, copies):
        inset_x, inset_y = width / 2 * (1 - 1 / enlargement), height / 2 * (1 - 1 / enlargement)
        box = (inset_x, inset_y, width - inset_x, height - inset_y)
        total += np.asarray(picture.resize(picture.size, Image.Resampling.BILINEAR, box))
    return np.round(total / copies).astype(np.uint8)


def haze(pixels: Pixels, share: float) -> Pixels:
    """Mix white airlight into the light, everywhere alike, as if all stood at one distance.

    Koschmieder's law, light = scene · (1 − share) + airlight · share (He, Sun and Tang, Single Image Haze
    Removal Using Dark Channel Prior, CVPR 2009, equation 1). Training's flat contrast is its nearest
    relative, but keeps the mean luminance. Should move only the score.

    Args:
        pixels: The picture.
        share: Share of the airlight, 0 to 1; 0 = unchanged.
    """
    return _encoded(_light(pixels) * (1 - share) + share)


def colour_cast(pixels: Pixels, mireds: float) -> Pixels:
    """Light the scene with a warmer lamp than the camera is balanced for; luminance of greys stays.

    Gains per channel of the linear light: those of a Planckian radiator, over those at 6504 K. Chromaticity
    by the cubic of Kim et al. (US patent 7024034), valid from 1667 to 25000 K. Should move only the score.

    Args:
        pixels: The picture.
        mireds: Shift of 10⁶ / colour temperature; 0 = unchanged, above 0 = amber, below = blue.
    """
    lamp = _planckian(1e6 / (1e6 / _DAYLIGHT_K + mireds))
    gains = lamp / _planckian(_DAYLIGHT_K)
    return _encoded(_light(pixels) * (gains / (gains @ _LUMINANCE)))


def vignette(pixels: Pixels, stops: float) -> Pixels:
    """Darken towards the corners by the cos⁴ law of natural vignetting.

    Should move the exposure: a large part of the picture becomes too dark.

    Args:
        pixels: The picture.
        stops: Loss in the corners, in stops of linear light; 0 = unchanged.
    """
    height, width = pixels.shape[:2]
    down, across = np.linspace(-1, 1, height)[:, None] * height, np.linspace(-1, 1, width) * width
    distance = (down**2 + across**2) / (height**2 + width**2)
    # cos⁴ θ = 1 / (1 + tan² θ)², and tan θ is proportional to the distance; 2^−stops where it is 1.
    falloff = 1 / (1 + distance * (2 ** (stops / 2) - 1)) ** 2
    return _encoded(_light(pixels) * falloff[..., None])


def _light(pixels: Pixels) -> Light:
    values = np.arange(256) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)[pixels]


def _encoded(light: Light) -> Pixels:
    clipped = np.clip(light, 0, 1)
    values = np.where(clipped <= 0.0031308, clipped * 12.92, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return np.round(values * 255).astype(np.uint8)


def _planckian(kelvin: float) -> Light:
    """Linear sRGB of a Planckian radiator of luminance 1, (3,)."""
    t = 1e3 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    light: Light = _XYZ_TO_RGB @ np.array([x / y, 1, (1 - x - y) / y])
    return light
