"""Any of Pillow's pixel modes → 8-bit RGB, by one stated rule each. Colour profiles are not applied."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from schemas.errors import DecodeError

BACKGROUND = 128
"""What shows through transparent pixels: mid-grey, 0–255."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_WHITE_IS_ZERO = 0


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded picture to RGB, 8 bits a channel.

    Alpha, in whatever form, is composited on mid-grey. 16-bit grey is scaled by 255 / 65535 (12-bit TIFF
    by 255 / 4095), rounded, not clipped. 32-bit integers and floats name no white, so it is the smallest
    of 1 and 255 (floats only), 65535, 2³¹ − 1 that no pixel exceeds; negative and non-finite values are
    refused. All else is Pillow's own conversion (CMYK without a profile, as transformers does it).

    Raises:
        DecodeError: Pixel values that have no agreed black and white.
    """
    if image.mode.startswith("I;16"):
        return _from_values(image, np.asarray(image), _sixteen_bit_white(image))
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        return _from_values(image, values, _assumed_white(values))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, (BACKGROUND,) * 3)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _sixteen_bit_white(image: Image.Image) -> float:
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, 16)
        depth = bits[0] if isinstance(bits, tuple) else bits
        return float(2**depth - 1)
    return 65535.0


def _assumed_white(values: NDArray[np.generic]) -> float:
    low, high = float(values.min()), float(values.max())
    whites: tuple[float, ...] = (65535.0, 2.0**31 - 1)
    if values.dtype.kind == "f":
        whites = (1.0, 255.0, *whites)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > whites[-1]:
        raise DecodeError(
            f"pixel values from {low:g} to {high:g} have no agreed black and white: "
            "save the picture with 8 or 16 bits a channel"
        )
    return next(white for white in whites if high <= white)


def _from_values(image: Image.Image, values: NDArray[np.generic], white: float) -> Image.Image:
    grey = np.rint(values.astype(np.float64) * (255.0 / white)).astype(np.uint8)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow inverts 8-bit TIFFs, but not these
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = BACKGROUND
    return Image.fromarray(grey).convert("RGB")
