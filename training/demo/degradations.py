"""What is done to a photograph, how much, and in which order: pure functions on uint8 RGB arrays.

The order is that of the real causes: how the camera is held (tilt, focus, movement), haze (contrast), how
much light is gathered, how the picture is developed (saturation), what sensor and file add (noise, JPEG).
What stands in the scene is ``scenes``' business. Lengths are in **model pixels**, the pixels that the model
sees after the resize to its budget: a blur that the resize would hide teaches nothing.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy.ndimage import convolve1d

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), RGB."""

BlurKind = Literal["focus", "defocus", "motion"]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_WHITE = 250.0
"""Luminance from which on a pixel counts as white."""
_FINE_JPEG = 95
"""JPEG quality from which on a file counts as undamaged."""


@dataclass(frozen=True, slots=True)
class Severities:
    """How much of everything is done to a photograph; the defaults leave it as it is.

    Attributes:
        blur_px: Standard deviation of the blur, in model pixels.
        blur_kind: Gaussian ("focus"), an even disc ("defocus"), or a straight line ("motion").
        noise_levels: Standard deviation of Gaussian noise, in 8-bit levels at the model's size.
        jpeg_quality: Of Pillow's encoder, 1-95; 95 = the picture's file is as good as undamaged.
        exposure_ev: Stops in linear light; negative = too dark.
        clipped: Share of the pixels, of those not white already, that are pushed beyond white.
        saturation_gain: Factor on the distance from grey; 1 = unchanged, 0 = no colour.
        contrast_gain: Factor on the distance from the mean luminance; below 1 = flat, hazy.
        tilt_deg: Rotation of the camera, counter-clockwise; cropped so that no corner is empty.
        cut: Share of the subject that is missing: outside the frame, or behind something.
        off_centre: Distance of the subject's centre from the frame's, 0 = there, 1 = at the edge.
        subject_pieces: Foreign objects in or around the subject.
        background_pieces: Foreign objects elsewhere.
    """

    blur_px: float = 0.0
    blur_kind: BlurKind = "focus"
    noise_levels: float = 0.0
    jpeg_quality: int = _FINE_JPEG
    exposure_ev: float = 0.0
    clipped: float = 0.0
    saturation_gain: float = 1.0
    contrast_gain: float = 1.0
    tilt_deg: float = 0.0
    cut: float = 0.0
    off_centre: float = 0.0
    subject_pieces: int = 0
    background_pieces: int = 0


def degrade(
    pixels: Pixels, severities: Severities, rng: np.random.Generator, *, scale: float = 1.0
) -> Pixels:
    """Apply what a camera and its software do; tilt and scene are there already (``scenes.compose``).

    Same arguments and same generator state, same result. The JPEG file is the caller's to write.

    Args:
        pixels: The photograph; not changed.
        severities: How much of what.
        rng: Decides directions and the grain; severities decide everything that a label tells.
        scale: Photograph pixels per model pixel, for the lengths.
    """
    picture = blur(Image.fromarray(pixels), severities.blur_px * scale, severities.blur_kind, rng)
    # Flat, as through haze, is the scene; what its light does to the sensor comes after.
    developed = change_contrast(np.asarray(picture), severities.contrast_gain)
    developed = expose(developed, severities.exposure_ev)
    developed = clip_highlights(developed, severities.clipped)
    developed = change_saturation(developed, severities.saturation_gain)
    # The resize to the model's size averages about scale ** 2 pixels.
    return add_noise(developed, severities.noise_levels * max(scale, 1.0), rng)


def straightened_size(width: float, height: float, degrees: float) -> tuple[float, float]:
    """Size of the largest centred frame of the same aspect without empty corners after a rotation."""
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    # Corners of the frame k·(w, h), turned back, must lie inside (w, h).
    factor = min(width / (width * cosine + height * sine), height / (width * sine + height * cosine))
    return width * factor, height * factor


def tilt(picture: Image.Image, degrees: float, frame_deg: float = 0.0) -> Image.Image:
    """Rotate, then cut a centred frame of the same aspect without empty corners.

    Args:
        picture: The picture.
        degrees: Counter-clockwise.
        frame_deg: The frame is as small as for at least this tilt, so that its size does not tell the tilt.
    """
    if not degrees and not frame_deg:
        return picture
    width, height = picture.size
    inner_width, inner_height = straightened_size(width, height, max(abs(degrees), abs(frame_deg)))
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    # One pixel inwards: interpolation reaches over the edge.
    left, top, right, bottom = (
        math.ceil(left) + 1,
        math.ceil(top) + 1,
        int(width - left) - 1,
        int(height - top) - 1,
    )
    # Only what the frame keeps is turned: from a point of the frame to the point of the picture it shows.
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, y = left - width / 2, top - height / 2
    turn = (
        cosine,
        -sine,
        width / 2 + cosine * x - sine * y,
        sine,
        cosine,
        height / 2 + sine * x + cosine * y,
    )
    size = (right - left, bottom - top)
    return picture.transform(size, Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR)


def blur(picture: Image.Image, sigma_px: float, kind: BlurKind, rng: np.random.Generator) -> Image.Image:
    """Blur with a standard deviation of ``sigma_px`` of the picture's own pixels, whatever the kind."""
    if sigma_px <= 0:
        return picture
    if kind == "focus":
        return picture.filter(ImageFilter.GaussianBlur(sigma_px))
    if kind == "defocus":
        return defocus(picture, 2 * sigma_px)
    return _moved(picture, sigma_px, rng.uniform(0, math.pi))


def defocus(picture: Image.Image, radius_px: float) -> Image.Image:
    """Spread every point over an even disc, as a lens out of focus; its deviation is half its radius."""
    reach = math.ceil(radius_px)
    pixels = np.asarray(picture, dtype=np.float32)
    total = np.zeros_like(pixels)
    area = 0.0
    for down in range(-reach, reach + 1):
        # One line of the disc; its ends count by the part that lies inside.
        half = math.sqrt(max(radius_px**2 - down**2, 0.0))
        if not half:
            continue
        line = np.clip(half + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
        shifted = _shifted(pixels, down, 0)
        total += convolve1d(shifted, line.astype(np.float32), axis=1, mode="nearest")
        area += float(line.sum())
    return Image.fromarray((total / area + 0.5).astype(np.uint8))


def _moved(picture: Image.Image, sigma_px: float, angle: float) -> Image.Image:
    # A line of length L has the standard deviation L / sqrt(12) along itself and none across: to look as
    # blurred as the round kinds it is made longer by sqrt(2).
    half = sigma_px * math.sqrt(12) * math.sqrt(2) / 2
    pixels = np.asarray(picture, dtype=np.float32)
    steps = max(3, math.ceil(2 * half) + 1)
    total = np.zeros_like(pixels)
    for position in np.linspace(-half, half, steps):
        total += _shifted(pixels, round(position * math.sin(angle)), round(position * math.cos(angle)))
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


def clip_highlights(pixels: Pixels, share: float) -> Pixels:
    """Set the white point so low that ``share`` of the pixels that are not white yet leave the range.

    A pixel leaves it when its luminance reaches the white point; all else is stretched with it.
    """
    if share <= 0:
        return pixels
    luminance = pixels.astype(np.float32) @ _LUMA
    below = luminance[luminance < _WHITE]
    if not below.size:
        return pixels
    white = max(float(np.quantile(below, 1 - share)), 16.0)
    table = np.clip(np.arange(256) * (255 / white) + 0.5, 0, 255).astype(np.uint8)
    return table[pixels]


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


def add_noise(pixels: Pixels, sigma_levels: float, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise of ``sigma_levels`` 8-bit levels to every channel of every pixel on its own."""
    if sigma_levels <= 0:
        return pixels
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(sigma_levels)
    return np.clip(pixels + noise + 0.5, 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode as JPEG, chroma at half resolution below the undamaged quality, as cameras and sites do."""
    file = io.BytesIO()
    subsampling = 0 if quality >= _FINE_JPEG else 2
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def _shifted(pixels: npt.NDArray[np.float32], down: int, right: int) -> npt.NDArray[np.float32]:
    """Shift with the edge repeated."""
    height, width = pixels.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return pixels[rows][:, columns]
