"""A decoded picture → the size at which the model sees it: Pillow's BICUBIC, antialiased, by two programs.

Which one is part of the adapter's image decoder (``schemas.manifest.ImageRule.image_decoder``): what an
adapter learnt from must be what it is asked about, to the bit.

- ``PILLOW``: Pillow itself, as LLaMA-Factory and transformers' own processor have it.
- ``TORCH``: the same filter in torch, which on x86 uses vector instructions: 2 megapixels to 256
  visual tokens in 3 ms instead of 16 on one core (2026-11-22); a processor without AVX2 is slower with it
  than with Pillow. The numbers do not depend on which instructions it uses. From Pillow's they differ by one
  grey level of 255 in less than 1 % of a photograph's values (by a few where two pixels are made two
  hundred).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch

PILLOW, TORCH = "pillow-reduced-2x/1", "torch-reduced-2x/2"

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge of the part that is shown, in px; they may split a pixel."""

Resize = Callable[[Image.Image, tuple[int, int], Box | None], NDArray[np.uint8]]
"""RGB picture, (width, height) in px, what is shown → uint8 (height, width, 3)."""

_SLACK = 1e-9
"""torch takes the scale, and rounds down what it gives; far below what moves a weight by its last bit."""


def _by_pillow(image: Image.Image, size: tuple[int, int], box: Box | None) -> NDArray[np.uint8]:
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box))


def _by_torch(image: Image.Image, size: tuple[int, int], box: Box | None) -> NDArray[np.uint8]:
    # Here, because what checks a job or starts a decoder's process for one header needs no torch.
    import torch

    left, upper, right, lower = box or (0, 0, *image.size)
    if (left, upper) != (0, 0):
        raise ValueError(f"the part that is shown must begin at the corner, not at {left:g}, {upper:g}")
    scale = tuple(side / span * (1 + _SLACK) for side, span in ((size[1], lower), (size[0], right)))
    try:
        resized = torch.nn.functional.interpolate(
            _pixels(image).permute(2, 0, 1)[None], scale_factor=scale, mode="bicubic", antialias=True
        )
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
    # Enlarged, a part of a pixel that is not shown would give rows and columns of its own.
    return resized[0, :3, : size[1], : size[0]].permute(1, 2, 0).numpy()


def _pixels(image: Image.Image) -> torch.Tensor:
    """(height, width, 3 or 4) pixel values; a fourth one is how Pillow fills a pixel up, and says nothing."""
    import pyarrow as pa
    import torch
    from torch.utils.dlpack import from_dlpack

    # Lines may be padded (PILLOW_ALIGNMENT), and nothing tells what is handed out of it.
    if Image.core.get_alignment() == 1:  # type: ignore[attr-defined]  # documented, not exported
        # Large pictures lie in several pieces, which are not handed out.
        with suppress(ValueError):
            # Pillow's own memory; it stays as long as this does.
            return from_dlpack(pa.array(image).values).view(image.height, image.width, -1)
    # A copy: torch warns of arrays that cannot be written. np.array would take four times as long.
    return torch.from_numpy(np.asarray(image).copy())


RESIZES: Mapping[str, Resize] = MappingProxyType({PILLOW: _by_pillow, TORCH: _by_torch})
"""By image decoder."""
