"""Toy pictures: smooth colour with fine structure, so that every degradation has something to degrade."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def toy_picture(seed: int = 0, height: int = 112, width: int = 140) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    base = 110 + 60 * np.sin(down / 17 + seed)[..., None] * np.array([1.0, 0.4, -0.6])
    stripes = 25 * ((across // 3 % 2) * 2 - 1)[..., None]
    return np.clip(base + stripes + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
