"""What differs in length from row to row: the image, and the words about it.

Positions follow Qwen2-VL's M-RoPE in closed form (arXiv 2409.12191, section 2.1): after an image of h × w
merged cells that starts at s, text continues at s + max(h, w).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.conversation import Prompt
from model.patches import normalised
from model.sending import send


@dataclass(frozen=True)
class ImageBatch:
    """The images of one micro-batch, on the model's device.

    Attributes:
        patches: (Σ patches, 588) uint8 pixel values (``patch_rows``), image after image.
        grids: (height, width) of every image in patches, before merging.
        contexts: Ids of every image's filled context template; may be empty.
    """

    patches: torch.Tensor
    grids: tuple[tuple[int, int], ...]
    contexts: tuple[tuple[int, ...], ...]

    def pixel_values(self) -> torch.Tensor:
        """(Σ patches, 1176) float32, as transformers takes them."""
        return normalised(self.patches)


@dataclass(frozen=True)
class RaggedIds:
    """Image, middle and context columns before embedding, padded on the right.

    Attributes:
        ids: (batch, width) text ids; 0 in image and padding cells.
        image_cells: (Σ visual tokens,) index of every image cell among the batch · width cells.
        positions: (3, batch, width) M-RoPE positions.
        valid: (batch, width) False in padding.
        next_position: (batch,) where the text behind continues.
    """

    ids: torch.Tensor
    image_cells: torch.Tensor
    positions: torch.Tensor
    valid: torch.Tensor
    next_position: torch.Tensor


def ragged_columns(images: ImageBatch, prompt: Prompt, merge: int, device: torch.device) -> RaggedIds:
    """Lay out image, middle and context of every row; tensors go to the device in one copy."""
    start = len(prompt.prefix)
    texts = [(*prompt.middle, *context) for context in images.contexts]
    lengths = [h * w // merge**2 + len(text) for (h, w), text in zip(images.grids, texts, strict=True)]
    batch, width = len(texts), max(lengths)
    ids = torch.zeros(batch, width, dtype=torch.long)
    positions = torch.zeros(3, batch, width, dtype=torch.long)
    following = torch.zeros(batch, dtype=torch.long)
    image_cells = []
    for row, ((h, w), text) in enumerate(zip(images.grids, texts, strict=True)):
        grid = image_positions(h // merge, w // merge, start)
        cells = grid.shape[1]
        behind = start + max(h, w) // merge
        image_cells.append(torch.arange(row * width, row * width + cells))
        positions[:, row, :cells] = grid
        ids[row, cells : cells + len(text)] = torch.tensor(text, dtype=torch.long)
        positions[:, row, cells : cells + len(text)] = torch.arange(behind, behind + len(text))
        following[row] = behind + len(text)
    ids, there, positions, filled, following = send(
        [ids, torch.cat(image_cells), positions, torch.tensor(lengths), following], device
    )
    valid = torch.arange(width, device=device)[None] < filled[:, None]
    return RaggedIds(ids, there, positions, valid, following)


def image_positions(height: int, width: int, start: int) -> torch.Tensor:
    """M-RoPE positions (3, height · width) of an image of merged cells: time, row, column."""
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    return torch.stack([torch.zeros_like(row), row, column]) + start
