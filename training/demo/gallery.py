"""Photographs to look at: those of a split as files, and copies with one thing wrong each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from training.config import shipped_config
from training.demo.degradations import Severities, degrade, jpeg, tilt
from training.demo.photographs import Split, load

FAULTS = {
    "blurred": Severities(blur_px=3.5),
    "dark": Severities(exposure_ev=-3.0),
    "bright": Severities(exposure_ev=2.2),
    "pale": Severities(saturation_gain=0.05),
    "garish": Severities(saturation_gain=3.5),
    "tilted": Severities(tilt_deg=15.0),
    "noisy": Severities(noise_levels=45.0),
    "compressed": Severities(jpeg_quality=4),
}
"""What is wrong with a copy, by the word that its file name gets; else it is as good as a file can be."""


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
    model_pixels = shipped_config("base").image.max_pixels
    written = []
    for photograph, picture in load(split, cache):
        scale = max(1.0, math.sqrt(picture.width * picture.height / model_pixels))
        copies = {"": Severities(), **(FAULTS if degraded else {})}
        for fault, severities in copies.items():
            path = folder / f"{photograph.name}{'-' if fault else ''}{fault}.jpg"
            path.write_bytes(_copy(picture, severities, scale))
            written.append(path)
    return sorted(written)


def _copy(picture: Image.Image, severities: Severities, scale: float) -> bytes:
    if severities == Severities():
        return jpeg(np.asarray(picture), severities.jpeg_quality)
    # Near the model's own size: its resize would average away the noise and the blocks of a large picture.
    shrink = int(scale)
    tilted = tilt(picture.reduce(shrink), severities.tilt_deg)
    degraded = degrade(np.asarray(tilted), severities, np.random.default_rng(0), scale=scale / shrink)
    return jpeg(degraded, severities.jpeg_quality)
