"""Micro-batches by visual tokens: a pure plan, the same for the library and the pipeline, and its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.slots import ChoiceSlot, DecimalSlot, FreeTextSlot, Slot, SlotProgram

MOST_GPU_TOKENS = 32_768
"""More would not be faster: at a few hundred columns a pass, weights are read for free."""

_USABLE = 0.7
"""Of free memory: the rest is for what is staged, for captured graphs, and for gaps between blocks."""
_PATCHES_A_TOKEN = 4
_FLOAT_BYTES = 4
_STATES, _WIDE = 6, 3
"""Tensors of the hidden and of the widest size that a layer holds at a time, its input and output counted."""


@dataclass(frozen=True)
class ModelSize:
    """What of a model's shape costs memory for every column of a micro-batch.

    Attributes:
        layers: Of the language model.
        hidden: Width of its states.
        widest: Output of its widest linear layer.
        key_values: Numbers that the cache keeps for a column and layer, keys and values together.
        vocabulary: Logits of a decided column.
        vision_hidden: Width of the vision tower's states.
        vision_widest: Output of its widest linear layer.
        number_bytes: Of a number in its number format.
    """

    layers: int
    hidden: int
    widest: int
    key_values: int
    vocabulary: int
    vision_hidden: int
    vision_widest: int
    number_bytes: int

    @classmethod
    def of(cls, config: Any, number_bytes: int) -> ModelSize:
        """Read it from the configuration of a ``Qwen2VLForConditionalGeneration``."""
        text, vision = config.get_text_config(), config.vision_config
        head = text.hidden_size // text.num_attention_heads
        return cls(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            widest=max(text.intermediate_size, text.hidden_size),
            key_values=2 * text.num_key_value_heads * head,
            vocabulary=text.vocab_size,
            vision_hidden=vision.embed_dim,
            vision_widest=max(int(vision.embed_dim * vision.mlp_ratio), 3 * vision.embed_dim),
            number_bytes=number_bytes,
        )


@dataclass(frozen=True)
class RowSize:
    """What every row of a micro-batch has beside its visual tokens.

    Attributes:
        columns: Of prompt and answer, at most; contexts are extra.
        decided: Most columns of one pass whose logits are read.
    """

    columns: int
    decided: int

    @classmethod
    def of(cls, prompt_columns: int, program: SlotProgram) -> RowSize:
        """Bound it by a slot program behind a prompt."""
        answer = sum(len(step.forced) + _slot_columns(step.slot) for step in program.steps)
        return cls(prompt_columns + answer, max(_decided(step.slot) for step in program.steps))


def _slot_columns(slot: Slot) -> int:
    if isinstance(slot, ChoiceSlot):
        return len(slot.trie.token)
    if isinstance(slot, DecimalSlot):
        return 10 + 1 + slot.digits
    return slot.max_tokens if isinstance(slot, FreeTextSlot) else 0


def _decided(slot: Slot) -> int:
    if isinstance(slot, ChoiceSlot):
        return len(slot.trie.branching)
    return 10 + 1 if isinstance(slot, DecimalSlot) else 1


def gpu_token_budget(free_bytes: int, model: ModelSize, row: RowSize, image_tokens: int) -> int:
    """Visual tokens of a micro-batch that free memory holds; an estimate that errs on the side of room.

    A column costs its keys and values in all layers, the states and widest activations of one layer, and its
    row of the attention mask. A visual token costs that and its patches in the vision tower; a row costs that
    for its words, and the logits of its decided columns in float32, twice. Rows are counted as if images were
    half as large as they may be.

    Args:
        free_bytes: With weights and adapter loaded.
        model: See ``ModelSize``.
        row: See ``RowSize``.
        image_tokens: Visual tokens of the largest image by the adapter's rule.

    Returns:
        At least 1, at most ``MOST_GPU_TOKENS``.
    """
    size = model.number_bytes
    cache = model.layers * model.key_values * size
    activations = (_STATES * model.hidden + _WIDE * model.widest) * size
    mask = (image_tokens + row.columns) * (size + 1)
    column = cache + activations + mask
    patch = (_STATES * model.vision_hidden + _WIDE * model.vision_widest) * size
    logits = row.decided * model.vocabulary * (size + 2 * _FLOAT_BYTES)
    row_bytes = row.columns * column + logits
    a_token = column + _PATCHES_A_TOKEN * patch + row_bytes / max(image_tokens // 2, 1)
    return min(max(int(free_bytes * _USABLE / a_token), 1), MOST_GPU_TOKENS)


def plan_micro_batches(visual_tokens: Sequence[int], token_budget: int, max_images: int) -> list[list[int]]:
    """Group images so that a micro-batch, padded to its largest image, stays within a budget.

    Images are sorted by size first, largest first: neighbours then waste little padding, and the
    micro-batch that needs the most memory comes first, so that running out of memory shows at once.

    Args:
        visual_tokens: Merged visual tokens of every image.
        token_budget: Most visual tokens of a micro-batch, padding counted. An image larger than the
            budget still gets a micro-batch of its own.
        max_images: Most images of a micro-batch.

    Returns:
        Indices into ``visual_tokens``; every index occurs exactly once. Ties keep their order.
    """
    order = sorted(range(len(visual_tokens)), key=lambda index: -visual_tokens[index])
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else []
        largest = visual_tokens[batch[0]] if batch else 0
        fits = len(batch) < max_images and largest * (len(batch) + 1) <= token_budget
        if batch and fits:
            batch.append(index)
        else:
            batches.append([index])
    return batches
