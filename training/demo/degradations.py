"""What is done to a photograph, how much, and in which order: pure functions on uint8 RGB arrays.

The order is that of the real causes: what stands in the scene (clutter, something before the subject), how
the camera is held (tilt, focus, movement), how much light it gathers, how the picture is developed
(contrast, saturation). Lengths are in **model pixels**, the pixels that the model sees after the resize to
its budget: a blur that the resize would hide teaches nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), RGB."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Severities:
    """How much of everything is done to a photograph; the defaults leave it as it is.

    Attributes:
        blur_px: Standard deviation of the blur, in model pixels.
        blur_kind: Out of focus, or moved in a straight line while exposing.
        exposure_ev: Stops in linear light; negative = too dark.
        saturation_gain: Factor on the distance from grey; 1 = unchanged, 0 = no colour.
        contrast_gain: Factor on the distance from the mean luminance; below 1 = flat, hazy.
        tilt_deg: Rotation of the camera, counter-clockwise; cropped so that no corner is empty.
        hidden: Share of the picture's area that something in front hides, in the centre.
        subject_pieces: Foreign objects around the centre.
        background_pieces: Foreign objects in the outer part.
    """

    blur_px: float = 0.0
    blur_kind: Literal["focus", "motion"] = "focus"
    exposure_ev: float = 0.0
    saturation_gain: float = 1.0
    contrast_gain: float = 1.0
    tilt_deg: float = 0.0
    hidden: float = 0.0
    subject_pieces: int = 0
    background_pieces: int = 0


def degrade(
    pixels: Pixels,
    severities: Severities,
    rng: np.random.Generator,
    *,
    scale: float = 1.0,
    pieces: tuple[Pixels, ...] = (),
) -> Pixels:
    """Apply all of ``severities``; same arguments and same generator state, same result.

    Args:
        pixels: The photograph; not changed.
        severities: How much of what.
        rng: Decides places, colours and directions; severities decide everything that a label tells.
        scale: Photograph pixels per model pixel, for the lengths.
        pieces: Foreign pictures for the clutter; without any there is no clutter.
    """
    picture = Image.fromarray(pixels)
    picture = tilt(picture, severities.tilt_deg)
    picture = clutter(picture, severities.subject_pieces, rng, pieces, central=True)
    picture = clutter(picture, severities.background_pieces, rng, pieces, central=False)
    picture = hide(picture, severities.hidden, rng)
    picture = blur(picture, severities.blur_px * scale, severities.blur_kind, rng)
    developed = expose(np.asarray(picture), severities.exposure_ev)
    developed = change_contrast(developed, severities.contrast_gain)
    return change_saturation(developed, severities.saturation_gain)


def tilt(picture: Image.Image, degrees: float) -> Image.Image:
    """Rotate, then cut the largest centred frame of the same aspect without empty corners."""
    if not degrees:
        return picture
    width, height = picture.size
    turned = picture.rotate(degrees, Image.Resampling.BICUBIC)
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    # Corners of the frame k·(w, h), turned back, must lie inside (w, h).
    factor = min(width / (width * cosine + height * sine), height / (width * sine + height * cosine))
    inner_width, inner_height = width * factor, height * factor
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    # One pixel inwards: bicubic interpolation reaches over the edge.
    box = (math.ceil(left) + 1, math.ceil(top) + 1, int(width - left) - 1, int(height - top) - 1)
    return turned.crop(box)


def clutter(
    picture: Image.Image,
    count: int,
    rng: np.random.Generator,
    pieces: tuple[Pixels, ...],
    *,
    central: bool,
) -> Image.Image:
    """Paste ``count`` oval cut-outs of foreign pictures: around the centre, or in the outer part."""
    if not count or not pieces:
        return picture
    cluttered = picture.copy()
    width, height = picture.size
    for _ in range(count):
        # Radii in half-widths: the central zone ends where the outer one begins.
        radius = rng.uniform(0.12, 0.42) if central else rng.uniform(0.68, 0.98)
        angle = rng.uniform(0, 2 * math.pi)
        side = max(4, int(math.sqrt(width * height) * rng.uniform(0.09, 0.16)))
        piece = Image.fromarray(pieces[rng.integers(len(pieces))]).resize((side, side))
        mask = Image.new("L", (side, side), 0)
        ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=255)
        # A square in polar coordinates, so that the corners get their share.
        reach = radius / max(abs(math.cos(angle)), abs(math.sin(angle)))
        x = width / 2 * (1 + reach * math.cos(angle)) - side / 2
        y = height / 2 * (1 + reach * math.sin(angle)) - side / 2
        cluttered.paste(piece, (int(x), int(y)), mask)
    return cluttered


def hide(picture: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Put one plain oval over about ``share`` of the area, near the centre, as a finger or a post would."""
    if not share:
        return picture
    hidden = picture.copy()
    width, height = picture.size
    ratio = rng.uniform(0.6, 1.6)
    half_width = math.sqrt(share * width * height * ratio / math.pi)
    half_height = half_width / ratio
    x = width * rng.uniform(0.4, 0.6)
    y = height * rng.uniform(0.4, 0.6)
    level = rng.integers(20, 200)
    colour = tuple(int(value) for value in np.clip(level + rng.integers(-25, 26, 3), 0, 255))
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    ImageDraw.Draw(hidden).ellipse(box, fill=colour)
    return hidden


def blur(
    picture: Image.Image, sigma_px: float, kind: Literal["focus", "motion"], rng: np.random.Generator
) -> Image.Image:
    """Blur with a standard deviation of ``sigma_px`` of the picture's own pixels."""
    if sigma_px <= 0:
        return picture
    if kind == "focus":
        return picture.filter(ImageFilter.GaussianBlur(sigma_px))
    # A line of length L has the standard deviation L / sqrt(12) along itself and none across: to look as
    # blurred as the round kind it is made longer by sqrt(2).
    half = sigma_px * math.sqrt(12) * math.sqrt(2) / 2
    angle = rng.uniform(0, math.pi)
    pixels = np.asarray(picture, dtype=np.float32)
    steps = max(3, math.ceil(2 * half) + 1)
    total = np.zeros_like(pixels)
    for position in np.linspace(-half, half, steps):
        shift_y, shift_x = round(position * math.sin(angle)), round(position * math.cos(angle))
        total += _shifted(pixels, shift_y, shift_x)
    return Image.fromarray((total / steps + 0.5).astype(np.uint8))


def expose(pixels: Pixels, stops: float) -> Pixels:
    """Multiply the linear light by 2 ** stops; what leaves the range is clipped, as in a sensor."""
    if not stops:
        return pixels
    encoded = np.arange(256, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lit = np.clip(linear * 2.0**stops, 0, 1)
    table = np.where(lit <= 0.0031308, lit * 12.92, 1.055 * lit ** (1 / 2.4) - 0.055)
    return (table * 255 + 0.5).astype(np.uint8)[pixels]


def change_contrast(pixels: Pixels, gain: float) -> Pixels:
    """Scale every pixel's luminance towards its mean; colours stay, which are saturation's business."""
    if gain == 1:
        return pixels
    values = pixels.astype(np.float32)
    grey = (values @ _LUMA)[..., None]
    return np.clip(values + (gain - 1) * (grey - grey.mean()) + 0.5, 0, 255).astype(np.uint8)


def change_saturation(pixels: Pixels, gain: float) -> Pixels:
    """Scale every pixel's distance from the grey of its own luminance."""
    if gain == 1:
        return pixels
    values = pixels.astype(np.float32)
    grey = (values @ _LUMA)[..., None]
    return np.clip(grey + gain * (values - grey) + 0.5, 0, 255).astype(np.uint8)


def _shifted(pixels: npt.NDArray[np.float32], down: int, right: int) -> npt.NDArray[np.float32]:
    """Shift with the edge repeated."""
    height, width = pixels.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return pixels[rows][:, columns]
