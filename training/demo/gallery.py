"""Photographs to look at: those of a split as files, and copies with one thing wrong each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from training.demo.degradations import Severities, degrade
from training.demo.photographs import Split, load

QUALITY = 95
"""JPEG quality of the files: high, so that the only fault of a copy is the one in its name."""

_MODEL_PIXELS = 252 * 252  # the embedded model's pixel budget: lengths of faults are in its pixels

FAULTS = {
    "blurred": Severities(blur_px=3.5),
    "dark": Severities(exposure_ev=-3.0),
    "bright": Severities(exposure_ev=2.2),
    "pale": Severities(saturation_gain=0.05),
    "garish": Severities(saturation_gain=3.5),
    "tilted": Severities(tilt_deg=15.0),
}
"""What is wrong with a copy, by the word that its file name gets."""


def write_gallery(folder: Path, split: Split, cache: Path, *, degraded: bool) -> list[Path]:
    """Write the photographs of a split as JPEG files.

    Args:
        folder: Where to; made if it is not there. Files of the same names are replaced.
        split: Which photographs; ``demo`` needs no download.
        cache: Where downloaded photographs are, or are to be put.
        degraded: Also write a copy with each of ``FAULTS``.

    Returns:
        The files, in order of name.

    Raises:
        ConfigurationError: The photographs cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for photograph, picture in load(split, cache):
        scale = max(1.0, math.sqrt(picture.width * picture.height / _MODEL_PIXELS))
        copies = {"": Severities(), **(FAULTS if degraded else {})}
        for fault, severities in copies.items():
            path = folder / f"{photograph.name}{'-' if fault else ''}{fault}.jpg"
            pixels = np.asarray(picture)
            if fault:
                pixels = degrade(pixels, severities, np.random.default_rng(0), scale=scale)
            Image.fromarray(pixels).save(path, "JPEG", quality=QUALITY, subsampling=0)
            written.append(path)
    return sorted(written)
