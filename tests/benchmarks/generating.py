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
from model.tokens import IM_END
from tests.model.reference import answer_under_mask, generate_inputs


@dataclass(frozen=True)
class Rival:
    """transformers' own model with the weights of a scorer.

    Attributes:
        stock: The model.
        scorer: Whose question and template it answers.
        batches: Its images, on the device. Unlike ours, it is not timed on making its inputs of them.
        answer_tokens: Of the longest answer that slot decoding gave in each batch; it writes as many.
    """

    stock: Any
    scorer: Scorer
    batches: Sequence[ImageBatch]
    answer_tokens: Sequence[int]

    @cached_property
    def inputs(self) -> list[dict[str, torch.Tensor]]:
        """What ``generate()`` takes, made once."""
        prompt = self.scorer.decoder.prompt
        return [generate_inputs(self.scorer.encoder, prompt, batch) for batch in self.batches]

    def plain(self) -> None:
        """Write freely, a fixed number of tokens: nothing of ours in the loop."""
        self._write(self.answer_tokens)

    def first_token(self) -> None:
        """Write no more than the token that the prefill decides."""
        self._write([1] * len(self.batches))

    @torch.inference_mode()
    def _write(self, tokens: Sequence[int]) -> None:
        end = self.scorer.encoder.special(IM_END)
        for inputs, count in zip(self.inputs, tokens, strict=True):
            self.stock.generate(
                **inputs,
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                eos_token_id=end,
                pad_token_id=end,
            )

    @torch.inference_mode()
    def masked(self) -> list[list[int]]:
        """Write under the template's mask; gives the answers, which slot decoding must give, too."""
        encoder, program = self.scorer.encoder, self.scorer.decoder.program
        return [
            answer
            for inputs in self.inputs
            for answer in answer_under_mask(self.stock, encoder, program, inputs)
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
