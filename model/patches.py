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


def patch_rows(pixels: torch.Tensor, patch: int = PATCH, merge: int = MERGE) -> torch.Tensor:
    """Cut an image into patches in Qwen2-VL's order, values and dtype untouched.

    Args:
        pixels: (height, width, channels), both sides multiples of ``patch * merge``.
        patch: Side of a patch, px.
        merge: The ``merge`` × ``merge`` patches that become one token stand together.

    Returns:
        (n_patches, channels · patch · patch).

    Raises:
        ValueError: The sides are no such multiples.
    """
    height, width, channels = pixels.shape
    if height % (patch * merge) or width % (patch * merge):
        raise ValueError(f"{height} × {width} px: both sides must be multiples of {patch * merge}")
    rows, columns = height // patch, width // patch
    cut = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, channels)
    ordered = cut.permute(0, 3, 1, 4, 6, 2, 5)  # (row, column, merge, merge, channel, patch, patch)
    return ordered.reshape(rows * columns, channels * patch * patch)


def normalised(rows: torch.Tensor, temporal: int = TEMPORAL) -> torch.Tensor:
    """CLIP's normalisation of patch rows, every patch as ``temporal`` equal frames.

    Args:
        rows: uint8, (n_patches, 3 · patch · patch), from ``patch_rows``.
        temporal: Copies of every patch.

    Returns:
        float32, (n_patches, 3 · temporal · patch · patch): what transformers' image processor calls
        ``pixel_values``; 1176 columns for Qwen2-VL.

    Raises:
        ValueError: Not uint8.
    """
    if rows.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, not {rows.dtype}")
    channels = rows.view(len(rows), len(CLIP_MEAN), 1, -1).float() / 255.0
    # No tensors made of the constants: on a GPU each would be a copy that the host waits for.
    frames = [
        (channels[:, index] - mean) / std
        for index, (mean, std) in enumerate(zip(CLIP_MEAN, CLIP_STD, strict=True))
    ]
    return torch.stack(frames, 1).expand(-1, -1, temporal, -1).flatten(1)


def normalised_patches(
    pixels: NDArray[np.uint8] | torch.Tensor,
    patch: int = PATCH,
    merge: int = MERGE,
    temporal: int = TEMPORAL,
) -> torch.Tensor:
    """Cut an image into patches and normalise them.

    Args:
        pixels: uint8, (height, width, 3); a tensor stays on its device.
        patch: See ``patch_rows``.
        merge: See ``patch_rows``.
        temporal: See ``normalised``.

    Returns:
        As ``normalised``.

    Raises:
        ValueError: Not uint8, or sides that are not multiples of ``patch * merge``.
    """
    image = pixels if isinstance(pixels, torch.Tensor) else torch.tensor(pixels)
    return normalised(patch_rows(image, patch, merge), temporal)


def folded_normalisation(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold CLIP's normalisation and the two equal frames into the weight of the patch embedding.

    ``W · normalised(x) = W' · (x - 128) + b``. Pixels less 128 are whole numbers of at most 8 bits, exact in
    every number format. In bfloat16 W' is rounded once more than W, and pixels not at all: the error is
    that of the unfolded way within 4 %.

    Args:
        weight: (embed dim, 3, frames, patch, patch), of ``PatchEmbed``'s convolution.

    Returns:
        W', (embed dim, 3 · patch · patch), and b, (embed dim,), in the weight's number format.
    """
    summed = weight.float().sum(2).flatten(2)
    folded = torch.stack([summed[:, index] / (255.0 * std) for index, std in enumerate(CLIP_STD)], 1)
    folded = folded.to(weight.dtype)
    # Of W' as it was rounded: whatever it lost then vanishes at the mean colour instead of at 128.
    sums = folded.float().sum(2)
    bias = sum((128.0 - 255.0 * mean) * sums[:, index] for index, mean in enumerate(CLIP_MEAN))
    assert isinstance(bias, torch.Tensor)
    return folded.flatten(1), bias.to(weight.dtype)
