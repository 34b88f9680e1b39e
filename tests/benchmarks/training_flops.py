"""Arithmetic of a LoRA training step, from the shape of a Qwen2-VL.

Counted are matrix products and attention, as ``torch.utils.flop_counter`` counts them; a test holds one to
the other. A product of (n, a) with (a, b) is 2·n·a·b. Frozen weights need gradients towards their input only,
LoRA's towards their weights too. Attention is counted in full, its masked half too; its backward pass is 2.5
times the forward, since fused kernels compute the scores again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformers import Qwen2VLConfig

_LoraShapes = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class StepFlops:
    """Floating-point operations.

    Attributes:
        forward: Of the forward pass.
        backward: Of the gradients.
        recompute: Of what gradient checkpointing computes again.
    """

    forward: float = 0
    backward: float = 0
    recompute: float = 0

    def __add__(self, other: StepFlops) -> StepFlops:
        return StepFlops(
            self.forward + other.forward, self.backward + other.backward, self.recompute + other.recompute
        )

    @property
    def total(self) -> float:
        """All of it."""
        return self.forward + self.backward + self.recompute


def micro_batch_flops(
    config: Qwen2VLConfig, rank: int, patches: Sequence[int], columns: int, logit_columns: int
) -> StepFlops:
    """Arithmetic of one micro-batch, padding included, with gradient checkpointing.

    Args:
        config: Shape of the model.
        rank: Of LoRA, on the linears of vision blocks and language model.
        patches: Of every image, before they are merged.
        columns: Tokens of a padded row.
        logit_columns: Of these, how many the output head sees.
    """
    text, vision = config.get_text_config(), config.vision_config
    rows, width = len(patches), vision.embed_dim
    merged = vision.spatial_merge_size**2
    inner = int(width * vision.mlp_ratio)
    head_dim = text.hidden_size // text.num_attention_heads
    keys = text.num_key_value_heads * head_dim
    hidden, feed = text.hidden_size, text.intermediate_size
    vision_block = _block(
        [(width, 3 * width), (width, width), (width, inner), (inner, width)],
        rank,
        sum(patches),
        4 * width * sum(count**2 for count in patches),
    )
    text_block = _block(
        [*[(hidden, hidden), (hidden, keys)] * 2, *[(hidden, feed)] * 2, (feed, hidden)],
        rank,
        rows * columns,
        4 * hidden * rows * columns**2,
    )
    # Both frames of a still image are equal: one is multiplied (model.fast_paths). Nothing before it learns.
    embedding = StepFlops(2 * sum(patches) * vision.in_channels * vision.patch_size**2 * width)
    merger = _frozen([merged * width, merged * width, vision.hidden_size], sum(patches) // merged)
    head = _frozen([hidden, text.vocab_size], rows * logit_columns)
    found = embedding + merger + head
    for block, depth in ((vision_block, vision.depth), (text_block, text.num_hidden_layers)):
        for _ in range(depth):
            found += block
    return found


def _block(shapes: _LoraShapes, rank: int, tokens: int, attention: float) -> StepFlops:
    base = 2.0 * tokens * sum(inputs * outputs for inputs, outputs in shapes)
    lora = 2.0 * tokens * rank * sum(inputs + outputs for inputs, outputs in shapes)
    forward = base + lora + attention
    return StepFlops(forward, base + 2 * lora + 2.5 * attention, forward)


def _frozen(widths: Sequence[int], tokens: int) -> StepFlops:
    forward = 2.0 * tokens * sum(inputs * outputs for inputs, outputs in pairwise(widths))
    return StepFlops(forward, forward)
