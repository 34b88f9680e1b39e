"""Bytes → upright RGB uint8 at the adapter's pixel budget; the same function in training and serving.

    facts  = inspect_image(data, limits)          # refuses by the header, before anything is decoded
    pixels = decode_image(data, facts, rule)      # a pure function of bytes and rule; thread-safe

The pixel budget is Qwen2-VL's own (arXiv 2409.12191): both sides a multiple of 28 px, the area within
``rule.min_pixels``–``rule.max_pixels``, the aspect ratio kept as closely as that allows.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.image_files import decoding, image_format, open_header, orientation
from model.image_modes import to_rgb
from model.resizing import RESIZES, TORCH
from schemas.errors import DecodeError, ImageLimitError
from schemas.manifest import ImageRule
from schemas.records import ImageFacts

IMAGE_DECODER = TORCH
"""Names the decoding path that new adapters learn with; changes whenever the pixels of any picture change.
Adapters that learnt with an older one of ``model.resizing.RESIZES`` are served with that one."""

REDUCED_MARGIN = 2
"""A JPEG decoded at reduced scale keeps at least this many times the final size, per side."""

_MAX_ASPECT_RATIO = 200  # Qwen2-VL's own limit
_LARGE_PIXELS = 32_000_000
_ONE_LARGE_AT_A_TIME = threading.Lock()
"""Decoding takes up to 20 bytes a pixel: eight threads with a 200-megapixel PNG each would need 32 GB."""
_NEAREST_PIXELS = 262_144  # of the published adapters' first resize, px

Room = Callable[[int], AbstractContextManager[None]]
"""Bytes of a decoded picture → held while it is being decoded; entering it may wait for others."""

_TURN: Mapping[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
"""How a picture that is stored with an EXIF orientation is turned upright."""
_SWAPS_SIDES = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before decoding.

    Attributes:
        max_file_bytes: Largest file, bytes.
        max_decoded_pixels: Largest width × height as the header states it, px.
        max_aspect_ratio: Longest side over shortest; Qwen2-VL's processor takes no more than 200.
    """

    max_file_bytes: int = 64 * 1024 * 1024
    max_decoded_pixels: int = 200_000_000
    max_aspect_ratio: float = _MAX_ASPECT_RATIO


def unbounded(size: int) -> AbstractContextManager[None]:
    """Room for a picture of any size, at once."""
    return nullcontext()


def decoded_bytes(facts: ImageFacts) -> int:
    """What a picture takes in memory by its header: 3 bytes a pixel (0 where the size is not known)."""
    return (facts.width_px or 0) * (facts.height_px or 0) * 3


def image_id(data: bytes) -> str:
    """Lower-case hex sha256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def inspect_image(data: bytes, limits: ImageLimits | None = None) -> ImageFacts:
    """Read the header only and refuse what must not be decoded.

    Args:
        data: A whole file.
        limits: Defaults to ``ImageLimits()``.

    Returns:
        Hash, length and upright size in px.

    Raises:
        DecodeError: Empty, not an accepted format, or a damaged header.
        ImageLimitError: Beyond a limit.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.max_file_bytes:
        raise ImageLimitError(
            f"the file has {len(data):,} bytes; at most {limits.max_file_bytes:,} are accepted"
        )
    width, height, _ = _upright(data)
    if width * height > limits.max_decoded_pixels:
        raise ImageLimitError(
            f"the picture has {width:,} × {height:,} px by its header; "
            f"at most {limits.max_decoded_pixels:,} px are accepted"
        )
    _check_aspect(height, width, limits.max_aspect_ratio)
    return ImageFacts(image_id=image_id(data), width_px=width, height_px=height, size_bytes=len(data))


def _upright(data: bytes) -> tuple[int, int, int]:
    """Width and height as seen, and the orientation that is still to be undone."""
    image = open_header(data)
    turn = orientation(image, data)
    width, height = image.size
    return (height, width, turn) if turn in _SWAPS_SIDES else (width, height, turn)


def _check_aspect(height: int, width: int, limit: float) -> None:
    if max(height, width) > limit * min(height, width):
        raise ImageLimitError(
            f"the picture has {width} × {height} px: one side is more than {limit:g} times the other"
        )


def resized_size(height: int, width: int, rule: ImageRule, factor: int = 28) -> tuple[int, int]:
    """Size in px at which the model sees a picture.

    For ``bicubic`` exactly ``smart_resize`` of transformers' Qwen2-VL; for ``nearest_262144`` the same
    after the published adapters' first step.

    Args:
        height: Upright height, px.
        width: Upright width, px.
        rule: Pixel budget and resize rule.
        factor: Both sides are multiples of it; patch size × merge size.

    Returns:
        Height and width, px.

    Raises:
        ImageLimitError: One side is more than 200 times the other.
    """
    _check_aspect(height, width, _MAX_ASPECT_RATIO)
    if rule.resize_rule == "nearest_262144":
        height, width = _nearest_size(height, width)
    new_height, new_width = (round(side / factor) * factor for side in (height, width))
    if new_height * new_width > rule.max_pixels:
        shrink = math.sqrt(height * width / rule.max_pixels)
        new_height, new_width = (
            max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)
        )
    elif new_height * new_width < rule.min_pixels:
        grow = math.sqrt(rule.min_pixels / (height * width))
        new_height, new_width = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return new_height, new_width


def _nearest_size(height: int, width: int) -> tuple[int, int]:
    if height * width <= _NEAREST_PIXELS:
        return height, width
    shrink = math.sqrt(_NEAREST_PIXELS / (height * width))
    return int(height * shrink), int(width * shrink)


def decode_image(data: bytes, facts: ImageFacts, rule: ImageRule) -> NDArray[np.uint8]:
    """Decode to what the model sees.

    First frame, upright, RGB (``model.image_modes`` says how), resized by ``rule`` with BICUBIC as
    transformers does (``model.resizing``). A JPEG under the ``bicubic`` rule is decoded at 1/2, 1/4 or 1/8
    scale as long as that leaves ``REDUCED_MARGIN`` × the final size; a NEAREST first step needs every pixel.

    Args:
        data: The bytes that ``inspect_image`` accepted.
        facts: What it said.
        rule: Of the adapter's manifest.

    Returns:
        uint8, (height, width, 3), both sides multiples of 28.

    Raises:
        DecodeError: The bytes do not decode completely.
        ValueError: ``facts`` are not of these bytes: a mistake of the caller.
    """
    width, height, turn = _upright(data)
    if (width, height, len(data)) != (facts.width_px, facts.height_px, facts.size_bytes):
        raise ValueError(f"facts {facts} are not of these bytes ({width} × {height} px, {len(data)} bytes)")
    target_height, target_width = resized_size(height, width, rule)
    swaps = turn in _SWAPS_SIDES
    # Resized as stored, then turned: turning the small picture is cheaper.
    size = (target_height, target_width) if swaps else (target_width, target_height)
    kind = image_format(data)
    large = kind != "JPEG" and width * height > _LARGE_PIXELS
    with decoding(kind), _ONE_LARGE_AT_A_TIME if large else nullcontext():
        pixels = _resized(data, size, rule)
        if turn in _TURN:
            pixels = _TURN[turn](pixels)
    if pixels.shape != (target_height, target_width, 3):
        raise DecodeError(f"header and content disagree about the size ({pixels.shape})")
    return np.require(pixels, requirements=("C", "W"))


def _resized(data: bytes, size: tuple[int, int], rule: ImageRule) -> NDArray[np.uint8]:
    """Decode and resize to ``size`` (width, height), as stored."""
    image = open_header(data)
    box = None
    if rule.resize_rule == "bicubic":
        # Only JPEGs have a reduced scale. The box says which part of the last, partly filled
        # pixel belongs to the picture; without it the content would shift by a fraction of a pixel.
        drafted = image.draft(None, (size[0] * REDUCED_MARGIN, size[1] * REDUCED_MARGIN))
        box = drafted[1] if drafted else None
    header_size = image.size
    image.load()
    if image.size != header_size:
        raise DecodeError(f"header and content disagree about the size ({header_size}, {image.size})")
    rgb = to_rgb(image)
    if rule.resize_rule == "nearest_262144":
        height, width = _nearest_size(rgb.height, rgb.width)
        rgb = rgb.resize((width, height), Image.Resampling.NEAREST)
    return RESIZES[rule.image_decoder](rgb, size, box)
