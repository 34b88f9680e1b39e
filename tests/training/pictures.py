"""Toy pictures: smooth colour with fine structure, so that every degradation has something to degrade."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def toy_picture(seed: int = 0, height: int = 112, width: int = 140) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    base = 110 + 60 * np.sin(down / 17 + seed)[..., None] * np.array([1.0, 0.4, -0.6])
    stripes = 25 * ((across // 3 % 2) * 2 - 1)[..., None]
    return np.clip(base + stripes + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def toy_cutout(colour: str, width: int, height: int, *, square: bool = False) -> Image.Image:
    """A plain figure with a hard edge: an oval, or a rectangle."""
    figure = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(figure)
    box = (0, 0, width - 1, height - 1)
    if square:
        draw.rectangle(box, fill=colour)
    else:
        draw.ellipse(box, fill=colour)
    return figure
