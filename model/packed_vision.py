"""The vision tower over all images of a micro-batch at once, packed one behind the other.

transformers' tower asks the device for the sizes of images, and attends in a loop over them. Here sizes come
from the host, which knows them, and attention inside images is one call: a kernel for packed sequences on
CUDA, elsewhere one call for all neighbours of one size. On a CPU few images go at a time: what they need
stays in its cache, and below the size from which allocators map memory anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from model.sending import send

_CPU_BYTES = 5_000_000
"""Of the widest tensor in the vision tower, on a CPU; measured, and flat about there."""


@dataclass(frozen=True)
class Packing:
    """Where the patches of every image stand.

    Attributes:
        lengths: Patches of every image, on the host.
        ends: (images + 1,) int32, where each image begins, and the end; on the device.
        positions: (patches, 2) row and column of every patch within its image, on the device.
    """

    lengths: tuple[int, ...]
    ends: torch.Tensor
    positions: torch.Tensor


def pack(grids: Sequence[tuple[int, int]], merge: int, device: torch.device) -> Packing:
    """Lay out images one behind the other.

    Args:
        grids: (height, width) of every image in patches; multiples of ``merge``.
        merge: Patches merged per side; those of one token stand together.
        device: Where tensors go, in one copy.
    """
    lengths = tuple(height * width for height, width in grids)
    ends = torch.tensor([0, *accumulate(lengths)])
    places = {grid: _places(*grid, merge) for grid in set(grids)}
    ends, positions = send([ends, torch.cat([places[grid] for grid in grids])], device)
    return Packing(lengths, ends.int(), positions)


def _places(height: int, width: int, merge: int) -> torch.Tensor:
    """(height · width, 2) row and column, ``merge`` × ``merge`` blocks together."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    both = torch.stack([row, column], -1)
    blocks = both.reshape(height // merge, merge, width // merge, merge, 2).transpose(1, 2)
    return blocks.reshape(height * width, 2)


def attend_inside(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    lengths: Sequence[int],
    ends: torch.Tensor,
) -> torch.Tensor:
    """Attention of every patch to all patches of its image.

    Args:
        query: (patches of all images, heads, head dim), as are the next two.
        key: See ``query``.
        value: See ``query``.
        scale: Of the scores.
        lengths: Patches of every image.
        ends: (images + 1,) int32, the same on the device: where each image begins, and the end.

    Returns:
        (patches, heads, head dim).
    """
    if takes_packed(query):
        longest = max(lengths)
        found = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scale)
        assert isinstance(found, torch.Tensor)
        return found
    return attend_by_size(query, key, value, scale, lengths)


def takes_packed(query: torch.Tensor) -> bool:
    """Whether the kernel for packed sequences takes this: CUDA since Ampere, half precision."""
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    return query.shape[-1] % 8 == 0 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def attend_by_size(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, lengths: Sequence[int]
) -> torch.Tensor:
    """``attend_inside`` for any device: neighbours with the same number of patches go together."""
    found, start = [], 0
    for length, images in groupby(lengths):
        count = len(list(images))
        these = [
            part[start : start + count * length].view(count, length, *part.shape[1:]).transpose(1, 2)
            for part in (query, key, value)
        ]
        attended = scaled_dot_product_attention(these[0], these[1], these[2], scale=scale)
        found.append(attended.transpose(1, 2).flatten(0, 1))
        start += count * length
    return torch.cat(found)


def rotate(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding in float32, rounded once: ``x · cos + (-x₂, x₁) · sin``.

    Reads and writes a quarter of the memory that transformers' form does in bfloat16. Not for training: it
    writes into what it returns.

    Args:
        states: (patches, ..., head dim).
        cosine: (patches, head dim) float32, its halves equal, as is ``sine``.
        sine: See ``cosine``.

    Returns:
        As ``states``.
    """
    half = states.shape[-1] // 2
    spread = (len(cosine), *[1] * (states.dim() - 2), half)
    cos, sin = cosine[:, :half].view(spread), sine[:, :half].view(spread)
    first, second = states[..., :half], states[..., half:]
    rotated = torch.empty_like(states, memory_format=torch.contiguous_format)
    torch.addcmul(first * cos, second, sin, value=-1, out=rotated[..., :half])
    torch.addcmul(second * cos, first, sin, out=rotated[..., half:])
    return rotated


def embed_images(visual: Any, patches: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Merged visual tokens of all images; nothing waits for the device.

    Args:
        visual: The vision tower, with the fast paths.
        patches: (Σ patches, 588) uint8 pixel values.
        grids: (height, width) of every image in patches.

    Returns:
        (Σ merged tokens, hidden size of the language model).
    """
    found = []
    for part in _parts(grids, _most_patches(visual, patches)):
        packing = pack(part, visual.spatial_merge_size, patches.device)
        count = sum(packing.lengths)
        found.append(_embed(visual, patches[:count], packing))
        patches = patches[count:]
    return found[0] if len(found) == 1 else torch.cat(found)


def _most_patches(visual: Any, patches: torch.Tensor) -> int:
    """Patches that go through the tower together; one image may have more."""
    if patches.device.type != "cpu":
        return len(patches)
    config = visual.config
    widest = max(patches.shape[1], config.embed_dim * max(3, config.mlp_ratio))
    return int(_CPU_BYTES // (widest * visual.dtype.itemsize))


def _parts(grids: Sequence[tuple[int, int]], most_patches: int) -> Iterator[list[tuple[int, int]]]:
    part: list[tuple[int, int]] = []
    patches = 0
    for height, width in grids:
        if part and patches + height * width > most_patches:
            yield part
            part, patches = [], 0
        part.append((height, width))
        patches += height * width
    yield part


def _embed(visual: Any, patches: torch.Tensor, packing: Packing) -> torch.Tensor:
    found: torch.Tensor = visual(
        patches,
        # The tower takes what it would have asked the device for from whoever knows it.
        grid_thw=None,
        position_ids=packing.positions,
        cu_seqlens=packing.ends,
        max_seqlen=max(packing.lengths),
        lengths=packing.lengths,
    ).pooler_output
    return found
