"""The golden photographs: files that two wheels ship, untouched, and copies with one fault each.

Nothing here may differ between two computers, or a difference in a score would tell nothing. So the copies
are made by integers only and travel as PNG, which is lossless whichever Pillow writes it. For the same reason
they are not ``training.demo``'s: its faults and its list of photographs follow the training recipe.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.int64]

FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
"""Package and path in it, by name; three PNG and three JPEG files."""

_WITH_FAULTS = ("astronaut", "china")
_BLUR_REACH = 7  # px to every side


def photographs() -> dict[str, bytes]:
    """The six untouched files, by name."""
    return {
        name: resources.files(package).joinpath(path).read_bytes() for name, (package, path) in FILES.items()
    }


def photographs_and_copies() -> dict[str, bytes]:
    """The six files, and copies of two of them with a fault each ("china-dark"), by name."""
    files = photographs()
    for name in _WITH_FAULTS:
        with Image.open(io.BytesIO(files[name])) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(np.int64)
        files |= {f"{name}-{fault}": png(change(pixels)) for fault, change in _FAULTS.items()}
    return files


def png(pixels: NDArray[np.integer]) -> bytes:
    """A lossless file of (height, width, 3) levels; what is beyond 0-255 is clipped."""
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _blurred(pixels: Pixels) -> Pixels:
    """Mean over a square around every pixel, edges repeated."""
    side = 2 * _BLUR_REACH + 1
    sums = np.pad(
        pixels, ((_BLUR_REACH + 1, _BLUR_REACH), (_BLUR_REACH + 1, _BLUR_REACH), (0, 0)), mode="edge"
    )
    for axis in (0, 1):
        running = np.cumsum(sums, axis=axis).swapaxes(0, axis)
        sums = (running[side:] - running[:-side]).swapaxes(0, axis)
    return sums // side**2


def _grey(pixels: Pixels) -> Pixels:
    grey: Pixels = pixels @ np.array([299, 587, 114]) // 1000
    return grey[..., None]


_FAULTS: dict[str, Callable[[Pixels], Pixels]] = {
    "blurred": _blurred,
    "dark": lambda pixels: pixels * 2 // 5,
    "bright": lambda pixels: pixels * 2,
    "pale": lambda pixels: (pixels + 19 * _grey(pixels)) // 20,
    "garish": lambda pixels: 4 * pixels - 3 * _grey(pixels),
}
