"""RGB uint8 → Qwen2-VL's patch rows, the input of its vision tower (arXiv 2409.12191, section 2.1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

PATCH, MERGE, TEMPORAL = 14, 2, 2
"""Qwen2-VL: patch side in px, patches merged per side, frames per patch (a still image is repeated)."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per channel R, G, B, of values in [0, 1] (arXiv 2103.00020; Qwen2-VL's preprocessor uses them)."""


def grid_thw(height: int, width: int, patch: int = PATCH) -> tuple[int, int, int]:
    """Patches of a still image of ``height`` × ``width`` px: (frames, rows, columns)."""
    return 1, height // patch, width // patch


def visual_tokens(height: int, width: int, patch: int = PATCH, merge: int = MERGE) -> int:
    """Tokens that a still image of ``height`` × ``width`` px takes in the language model."""
    return (height // (patch * merge)) * (width // (patch * merge))


def patch_rows(
    pixels: torch.Tensor, patch: int = PATCH, merge: int = MERGE, temporal: int = TEMPORAL
) -> torch.Tensor:
    """Cut an image into patches in Qwen2-VL's order, values and dtype untouched.

    Args:
        pixels: (height, width, channels), both sides multiples of ``patch * merge``.
        patch: Side of a patch, px.
        merge: The ``merge`` × ``merge`` patches that become one token stand together.
        temporal: Copies of every patch.

    Returns:
        (n_patches, channels · temporal · patch · patch).

    Raises:
        ValueError: The sides are no such multiples.
    """
    height, width, channels = pixels.shape
    if height % (patch * merge) or width % (patch * merge):
        raise ValueError(f"{height} × {width} px: both sides must be multiples of {patch * merge}")
    rows, columns = height // patch, width // patch
    cut = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, channels)
    ordered = cut.permute(0, 3, 1, 4, 6, 2, 5)  # (row, column, merge, merge, channel, patch, patch)
    copies = ordered.unsqueeze(5).expand(*ordered.shape[:5], temporal, patch, patch)
    return copies.reshape(rows * columns, channels * temporal * patch * patch)


def normalised_patches(
    pixels: NDArray[np.uint8] | torch.Tensor,
    patch: int = PATCH,
    merge: int = MERGE,
    temporal: int = TEMPORAL,
) -> torch.Tensor:
    """Patch rows with CLIP's normalisation: what transformers' image processor calls ``pixel_values``.

    Args:
        pixels: uint8, (height, width, 3); a tensor stays on its device.
        patch: See ``patch_rows``, as are the next two.
        merge: Patches merged per side.
        temporal: Copies of every patch.

    Returns:
        float32, (n_patches, 3 · temporal · patch · patch); 1176 columns for Qwen2-VL.

    Raises:
        ValueError: Not uint8, or sides that are not multiples of ``patch * merge``.
    """
    image = pixels if isinstance(pixels, torch.Tensor) else torch.tensor(pixels)
    if image.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, not {image.dtype}")
    mean = torch.tensor(CLIP_MEAN, device=image.device)
    std = torch.tensor(CLIP_STD, device=image.device)
    return patch_rows((image.float() / 255.0 - mean) / std, patch, merge, temporal)
