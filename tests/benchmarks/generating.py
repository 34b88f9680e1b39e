"""transformers' ``generate()`` on the inputs of slot decoding, for as many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from model.decisions import Decisions, decided_values, written_ids
from model.decoding import SlotDecoder
from model.patches import grid_thw, patch_rows
from model.prepared import PreparedImage
from model.ragged import ImageBatch
from model.scorer import Scorer
from model.slots import ReadoutSlot, SlotProgram, Step
from model.tokens import IM_END, IMAGE_PAD, TextEncoder
from tests.model.reference import generate_under_mask


@dataclass(frozen=True)
class Rival:
    """transformers' own model with the weights of a scorer.

    Attributes:
        stock: The model.
        scorer: Whose question and template it answers.
        batches: Its images, on the device. Unlike ours, ``plain`` is not timed on making its inputs of them.
        answer_tokens: Of the longest answer that slot decoding gave; it writes as many.
    """

    stock: Any
    scorer: Scorer
    batches: Sequence[ImageBatch]
    answer_tokens: int

    @cached_property
    def inputs(self) -> list[dict[str, torch.Tensor]]:
        """What ``generate()`` takes, made once."""
        return [_prompts(self.scorer.encoder, self.scorer.decoder, batch) for batch in self.batches]

    @torch.inference_mode()
    def plain(self) -> None:
        """Write freely, a fixed number of tokens: nothing of ours in the loop."""
        end = self.scorer.encoder.special(IM_END)
        for inputs in self.inputs:
            self.stock.generate(
                **inputs,
                do_sample=False,
                min_new_tokens=self.answer_tokens,
                max_new_tokens=self.answer_tokens,
                eos_token_id=end,
                pad_token_id=end,
            )

    @torch.inference_mode()
    def masked(self) -> list[list[int]]:
        """Write under the template's mask; gives the answers, which slot decoding must give, too."""
        encoder, decoder = self.scorer.encoder, self.scorer.decoder
        return [
            answer
            for batch in self.batches
            for answer in generate_under_mask(self.stock, encoder, decoder.prompt, decoder.program, batch)
        ]


def prefill_only(decoder: SlotDecoder) -> SlotDecoder:
    """A decoder of the same model and question that stops where the answer would begin."""
    *closing, last = decoder.prompt.closing
    prompt = replace(decoder.prompt, closing=tuple(closing))
    program = SlotProgram("prefill", (Step((last,), ReadoutSlot("nothing")),), ())
    return SlotDecoder(decoder.model, prompt, program, torch.nn.Identity())


def image_batch(images: Sequence[PreparedImage], device: torch.device) -> ImageBatch:
    """A micro-batch as the decoder takes it."""
    return ImageBatch(
        torch.cat([patch_rows(torch.from_numpy(image.pixels).to(device)) for image in images]),
        tuple(grid_thw(*image.pixels.shape[:2])[1:] for image in images),
        tuple(image.context.ids for image in images),
    )


def answers_of(decoder: SlotDecoder, decisions: Decisions) -> list[list[int]]:
    """Ids of the answers that slot decoding decided, ``<|im_end|>`` included."""
    program = decoder.program
    return [
        program.answer_ids(decided_values(program, decisions, row), written_ids(program, decisions, row))
        for row in range(len(decisions.format_mass))
    ]


def _prompts(encoder: TextEncoder, decoder: SlotDecoder, images: ImageBatch) -> dict[str, torch.Tensor]:
    pad, device = encoder.special(IMAGE_PAD), images.patches.device
    prompts = [
        decoder.prompt.ids(pad, h * w // 4, context)
        for (h, w), context in zip(images.grids, images.contexts, strict=True)
    ]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": images.pixel_values(),
        "image_grid_thw": torch.tensor([[1, h, w] for h, w in images.grids], device=device),
        "mm_token_type_ids": (ids == pad).int(),
    }
