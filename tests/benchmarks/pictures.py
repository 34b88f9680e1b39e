"""Pictures to measure with: photographs as JPEG files of any size, and noise. Never zeros.

A photograph is enlarged by mirroring it at its edges, and made smaller by cutting: resampled up it would
have less detail than a camera gives, and decode faster. JPEG quality 90, as phones write.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.patches import MERGE, PATCH
from schemas.errors import ConfigurationError
from tests.golden.photographs import photographs

Pixels = NDArray[np.uint8]

QUALITY = 90


def read_photographs(folder: Path | None, most: int) -> list[Pixels]:
    """Decode photographs, the first ``most`` by name.

    Args:
        folder: Of JPEG, PNG or WebP files; None = the six that two wheels ship, none above 512 × 640 px.
        most: How many at most.

    Raises:
        ConfigurationError: The folder holds no file.
    """
    if folder is None:
        return [_pixels(data) for data in list(photographs().values())[:most]]
    files = photograph_files(folder)[:most]
    return [_pixels(path.read_bytes()) for path in files]


def photograph_files(folder: Path) -> list[Path]:
    """Files below a folder, sorted.

    Raises:
        ConfigurationError: There are none.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ConfigurationError(f"no files in {folder}")
    return files


def _pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def mirrored(pixels: Pixels, height: int, width: int) -> Pixels:
    """A picture of a size, px: the middle of a photograph, mirrored at its edges as often as needed."""
    for axis, side in enumerate((height, width)):
        have = pixels.shape[axis]
        place = (np.arange(side) + (have - side) // 2) % (2 * have)
        pixels = pixels.take(np.minimum(place, 2 * have - 1 - place), axis=axis)
    return pixels


def jpeg(pixels: Pixels) -> bytes:
    """A JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def size_of(megapixels: float, aspect: float) -> tuple[int, int]:
    """Height and width, px, of so many megapixels; ``aspect`` is height over width."""
    height = round(math.sqrt(megapixels * 1e6 * aspect))
    return height, round(height / aspect)


def jpegs(photos: Iterable[Pixels], height: int, width: int) -> list[bytes]:
    """Every photograph as a JPEG file of one size, px."""
    return [jpeg(mirrored(photo, height, width)) for photo in photos]


def image_size(visual_tokens: int) -> tuple[int, int]:
    """Height and width, px, of the squarest picture that takes so many tokens."""
    rows = next(n for n in range(math.isqrt(visual_tokens), 0, -1) if visual_tokens % n == 0)
    return rows * PATCH * MERGE, visual_tokens // rows * PATCH * MERGE


def write_files(folder: Path, files: Sequence[bytes], count: int) -> list[Path]:
    """Write ``count`` files, the given ones in turn; equal ones are hard links of one another."""
    paths = [folder / f"{index:07}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        if index < len(files):
            path.write_bytes(files[index])
        else:
            path.hardlink_to(paths[index % len(files)])
    return paths
