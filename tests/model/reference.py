"""``generate()`` under a slot program's allowed-token mask: the reference for answers and for speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from model.conversation import Prompt
from model.ragged import ImageBatch
from model.slots import SlotProgram
from model.tokens import IM_END, IMAGE_PAD, TextEncoder


class ProgramMask(LogitsProcessor):
    """Leaves only the tokens that a program allows next; rows that have ended may only pad."""

    def __init__(self, program: SlotProgram, prompt_length: int, end: int) -> None:
        self.program = program
        self.prompt_length = prompt_length
        self.end = end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        masked = torch.full_like(scores, float("-inf"))
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            allowed = (self.end,) if self.end in ids else self.program.allowed_after(ids)
            assert allowed is not None, "free text has no mask"
            masked[row, list(allowed)] = scores[row, list(allowed)]
        return masked


def generate_under_mask(
    model: Any, encoder: TextEncoder, prompt: Prompt, program: SlotProgram, images: ImageBatch
) -> list[list[int]]:
    """Answer a batch with ``generate()``; returns every row's answer, ``<|im_end|>`` included."""
    return answer_under_mask(model, encoder, program, generate_inputs(encoder, prompt, images))


def generate_inputs(encoder: TextEncoder, prompt: Prompt, images: ImageBatch) -> dict[str, torch.Tensor]:
    """What ``generate()`` takes for a batch: questions padded on the left, normalised pixels."""
    pad = encoder.special(IMAGE_PAD)
    prompts = [
        prompt.ids(pad, h * w // 4, context)
        for (h, w), context in zip(images.grids, images.contexts, strict=True)
    ]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=images.patches.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=ids.device)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": images.pixel_values(),
        "image_grid_thw": torch.tensor([[1, h, w] for h, w in images.grids], device=ids.device),
        "mm_token_type_ids": (ids == pad).int(),
    }


def answer_under_mask(
    model: Any, encoder: TextEncoder, program: SlotProgram, inputs: Mapping[str, torch.Tensor]
) -> list[list[int]]:
    """``generate_under_mask`` for inputs that are there already."""
    end = encoder.special(IM_END)
    width = inputs["input_ids"].shape[1]
    out = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=400,
        eos_token_id=end,
        pad_token_id=end,
        logits_processor=LogitsProcessorList([ProgramMask(program, width, end)]),
    )
    answers = [row[width:].tolist() for row in out]
    return [answer[: answer.index(end) + 1] for answer in answers]
