"""Free writing: transformers' own greedy ``generate()`` over a batch of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def write_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    pad: int,
    stops: int | list[int],
    max_new_tokens: int,
    *,
    image_pad: int | None = None,
    **images: Any,
) -> list[list[int]]:
    """Let a model go on from every prompt until it stops by itself.

    Args:
        model: A Qwen2-VL in eval mode.
        prompts: Ids; padded on the left, for what is written to begin at one column.
        pad: Id of the padding, which is masked.
        stops: Ids that end an answer.
        max_new_tokens: Longest answer.
        image_pad: Id that stands for a visual token, where prompts show images.
        images: What those need further, as ``generate()`` names it, on the model's device.

    Returns:
        Ids written, a prompt each, the stop included; shorter ones are padded on the right.
    """
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    rows = [[pad] * missing + [*prompt] for missing, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * missing + [1] * len(prompt) for missing, prompt in zip(padding, prompts, strict=True)]
    ids = torch.tensor(rows, device=model.device)
    if image_pad is not None:
        images["mm_token_type_ids"] = (ids == image_pad).int()
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=pad,
        # A base's own generation settings sample, or punish repetition, which forms and lists are made of.
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        **images,
    )
    new: list[list[int]] = written[:, width:].tolist()
    return new
