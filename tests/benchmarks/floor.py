"""The least time that a micro-batch can take, from the shape of a Qwen2-VL and the slot program. Pure.

Every pass costs at least its arithmetic at the speed of a matrix product, and at least what it must read at
the speed of a copy: its weights, and the keys and values of the columns that it sees. The floor is the sum
over passes of the larger one. Not counted: activations, norms, softmax, launches, the host.

Of the last layer, columns where nothing is decided need keys and values only.

A product of (n, a) with (a, b) is 2·n·a·b; of attention only what a mask leaves counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import Qwen2VLConfig

from model.conversation import Prompt
from model.layout import slot_trie
from model.slots import DecimalSlot, FreeTextSlot, ReadoutSlot, Slot, SlotProgram


@dataclass(frozen=True)
class Pass:
    """One pass of a row through the language model.

    Attributes:
        columns: Tokens that are fed, image included.
        past: Tokens in the cache before it.
        logits: Columns of which logits are needed.
    """

    columns: int
    past: int
    logits: int


@dataclass(frozen=True)
class Work:
    """What one pass of a micro-batch costs: floating-point operations, and bytes that must be read."""

    flops: float
    read_bytes: float

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The least time on a device that can do so much."""
        return max(self.flops / flops_per_s, self.read_bytes / bytes_per_s)


@dataclass(frozen=True)
class Floor:
    """The least that a micro-batch takes.

    Attributes:
        seconds: For the micro-batch.
        images_per_s: Of such micro-batches one after the other.
        tflop_per_image: Arithmetic of one image, 10¹².
    """

    seconds: float
    images_per_s: float
    tflop_per_image: float


def floor_of(works: Iterable[Work], rows: int, flops_per_s: float, bytes_per_s: float) -> Floor:
    """The floor of a micro-batch of ``rows`` images."""
    found = list(works)
    seconds = sum(work.seconds(flops_per_s, bytes_per_s) for work in found)
    flops = sum(work.flops for work in found)
    return Floor(seconds, rows / seconds, flops / rows / 1e12)


def batch_works(
    config: Qwen2VLConfig, visual_tokens: Sequence[int], passes: Sequence[Pass], bytes_each: int
) -> list[Work]:
    """All passes of a micro-batch: the vision tower's, and those of the language model.

    Args:
        config: Shape of the model.
        visual_tokens: Of every image.
        passes: Of one row; all rows alike.
        bytes_each: Of one number.
    """
    rows = len(visual_tokens)
    return [
        vision_work(config, visual_tokens, bytes_each),
        *(text_work(config, rows, one, bytes_each) for one in passes),
    ]


def vision_work(config: Qwen2VLConfig, visual_tokens: Sequence[int], bytes_each: int) -> Work:
    """The vision tower over the images of a micro-batch; each attends within itself."""
    vision = config.vision_config
    width, merged = vision.embed_dim, vision.spatial_merge_size**2
    inner = int(width * vision.mlp_ratio)
    # Both frames of a still image are equal: one is multiplied.
    embedding = vision.in_channels * vision.patch_size**2 * width
    blocks = vision.depth * (4 * width * width + 2 * width * inner)
    merger = merged * width * (merged * width + vision.hidden_size)
    tokens = sum(visual_tokens)
    attention = 4 * width * vision.depth * sum((count * merged) ** 2 for count in visual_tokens)
    flops = 2 * (tokens * merged * (embedding + blocks) + tokens * merger) + attention
    return Work(flops, bytes_each * (embedding + blocks + merger))


def text_work(config: Qwen2VLConfig, rows: int, one: Pass, bytes_each: int) -> Work:
    """One pass of ``rows`` rows through the language model."""
    text = config.get_text_config()
    hidden, depth = text.hidden_size, text.num_hidden_layers
    keys = hidden // text.num_attention_heads * text.num_key_value_heads
    stored, decided = 2 * hidden * keys, 2 * hidden * hidden + 3 * hidden * text.intermediate_size
    head = hidden * text.vocab_size
    seen = one.columns * one.past + one.columns * (one.columns + 1) // 2
    # As if the decided columns were the last ones of the pass.
    seen_last = one.logits * (one.past + one.columns) - one.logits * (one.logits - 1) // 2
    products = one.columns * (depth * stored + (depth - 1) * decided) + one.logits * (decided + head)
    per_row = 2 * products + 4 * hidden * ((depth - 1) * seen + seen_last)
    weights = depth * (stored + decided) + (head if one.logits else 0)
    cache = rows * 2 * keys * depth * (one.past + one.columns)
    return Work(rows * per_row, bytes_each * (weights + cache))


def program_passes(
    prompt: Prompt, program: SlotProgram, visual_tokens: int, context_tokens: int = 0
) -> list[Pass]:
    """The passes of one row: the prefix is in the cache, a step is one pass, later digits and words one each.

    Args:
        prompt: The question.
        program: The compiled template.
        visual_tokens: Of the image.
        context_tokens: Of its context.
    """
    past = len(prompt.prefix)
    pending = visual_tokens + len(prompt.middle) + context_tokens + len(prompt.closing)
    found: list[Pass] = []

    def feed(columns: int, logits: int) -> None:
        nonlocal past
        found.append(Pass(columns, past, logits))
        past += columns

    for step in program.steps:
        cells, logits, pending_after = _slot_columns(step.slot)
        feed(pending + len(step.forced) + cells, logits)
        for _ in range(_further_passes(step.slot)):
            feed(1, 1)
        pending = pending_after
    return found


def _slot_columns(slot: Slot) -> tuple[int, int, int]:
    """Speculative cells, columns with logits, and most tokens that the decision leaves for the next pass."""
    trie = slot_trie(slot)
    if trie is None:
        return 0, 0 if isinstance(slot, ReadoutSlot) else 1, 0
    cells = set(trie.speculative)
    values = range(max(trie.leaf_value) + 1)
    left = [len(trie.tokens(value)) - sum(node in cells for node in trie.path(value)) for value in values]
    return len(cells), len(trie.branching), max(left)


def _further_passes(slot: Slot) -> int:
    if isinstance(slot, DecimalSlot):
        return slot.digits - 2
    return slot.max_tokens - 1 if isinstance(slot, FreeTextSlot) else 0
