"""What differs in length from row to row: the image, and the words about it.

Positions follow Qwen2-VL's M-RoPE in closed form (arXiv 2409.12191, section 2.1): after an image of h × w
merged cells that starts at s, text continues at s + max(h, w).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.conversation import Prompt


@dataclass(frozen=True)
class ImageBatch:
    """The images of one micro-batch, on the model's device.

    Attributes:
        patches: (Σ patches, 1176) normalised patch values, image after image.
        grids: (height, width) of every image in patches, before merging.
        contexts: Ids of every image's filled context template; may be empty.
    """

    patches: torch.Tensor
    grids: tuple[tuple[int, int], ...]
    contexts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RaggedIds:
    """Image, middle and context columns before embedding, padded on the right.

    Attributes:
        ids: (batch, width) text ids; 0 in image and padding cells.
        is_image: (batch, width).
        positions: (3, batch, width) M-RoPE positions.
        valid: (batch, width) False in padding.
        next_position: (batch,) where the text behind continues.
    """

    ids: torch.Tensor
    is_image: torch.Tensor
    positions: torch.Tensor
    valid: torch.Tensor
    next_position: torch.Tensor


def ragged_columns(images: ImageBatch, prompt: Prompt, merge: int, device: torch.device) -> RaggedIds:
    """Lay out image, middle and context of every row, padded on the right."""
    start = len(prompt.prefix)
    texts = [(*prompt.middle, *context) for context in images.contexts]
    lengths = [h * w // merge**2 + len(text) for (h, w), text in zip(images.grids, texts, strict=True)]
    batch, width = len(texts), max(lengths)
    ids = torch.zeros(batch, width, dtype=torch.long)
    is_image = torch.zeros(batch, width, dtype=torch.bool)
    positions = torch.zeros(3, batch, width, dtype=torch.long)
    following = torch.zeros(batch, dtype=torch.long)
    for row, ((h, w), text) in enumerate(zip(images.grids, texts, strict=True)):
        grid = image_positions(h // merge, w // merge, start)
        cells = grid.shape[1]
        behind = start + max(h, w) // merge
        is_image[row, :cells] = True
        positions[:, row, :cells] = grid
        ids[row, cells : cells + len(text)] = torch.tensor(text, dtype=torch.long)
        positions[:, row, cells : cells + len(text)] = torch.arange(behind, behind + len(text))
        following[row] = behind + len(text)
    valid = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return RaggedIds(*(t.to(device) for t in (ids, is_image, positions, valid, following)))


def image_positions(height: int, width: int, start: int) -> torch.Tensor:
    """M-RoPE positions (3, height · width) of an image of merged cells: time, row, column."""
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    return torch.stack([torch.zeros_like(row), row, column]) + start
