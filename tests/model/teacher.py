"""The slow, ordinary way to get slot decoding's numbers: whole sequences through transformers' forward.

Positions and masks are transformers' own; nothing here is shared with ``model.decoding``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from model.compiling import compile_template
from model.conversation import Prompt, build_prompt, chatml_sha256
from model.ragged import ImageBatch
from model.slots import SlotProgram
from model.templates import answer_template
from model.tokens import IM_END, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START, TextEncoder
from schemas.attributes import VOCABULARY
from schemas.manifest import Conversation, Placement, ScoreScale, Tokenisation
from tests.model.small_tokeniser import small_encoder
from tests.model.tiny import tiny_model


@dataclass(frozen=True)
class Setup:
    """A small random model with everything needed to ask it one template."""

    model: Any
    encoder: TextEncoder
    prompt: Prompt
    program: SlotProgram


def setup(
    template: str = "score_form",
    *,
    instruction: Placement = "before_image",
    tokenisation: Tokenisation = "segments",
    scale: ScoreScale | None = None,
    seed: int = 0,
    encoder: TextEncoder | None = None,
) -> Setup:
    encoder = encoder or small_encoder()
    model = tiny_model(
        encoder.vocab_size,
        seed,
        image_token_id=encoder.special(IMAGE_PAD),
        video_token_id=encoder.special(VIDEO_PAD),
        vision_start_token_id=encoder.special(VISION_START),
        vision_end_token_id=encoder.special(VISION_END),
        eos_token_id=encoder.special(IM_END),
    )
    shape = answer_template(template, VOCABULARY, scale or ScoreScale())
    conversation = Conversation(
        chatml_sha256=chatml_sha256("You are a helpful assistant.", instruction), instruction=instruction
    )
    prompt = build_prompt(shape, conversation, encoder)
    program = compile_template(shape, encoder, encoder.special(IM_END), tokenisation)
    return Setup(model, encoder, prompt, program)


def random_images(
    grids: Sequence[tuple[int, int]], seed: int = 0, contexts: Sequence[tuple[int, ...]] | None = None
) -> ImageBatch:
    """Random pixels for images of the given patch grids."""
    draw = torch.Generator().manual_seed(seed)
    patches = [torch.randint(0, 256, (h * w, 588), generator=draw, dtype=torch.uint8) for h, w in grids]
    return ImageBatch(torch.cat(patches), tuple(grids), tuple(contexts or [()] * len(grids)))


def one_image(images: ImageBatch, row: int) -> ImageBatch:
    """One image of a batch, by itself."""
    counts = [h * w for h, w in images.grids]
    start = sum(counts[:row])
    patches = images.patches[start : start + counts[row]]
    return ImageBatch(patches, (images.grids[row],), (images.contexts[row],))


@torch.no_grad()
def teacher_forced(setup: Setup, images: ImageBatch, row: int, answer: Sequence[int]) -> torch.Tensor:
    """(answer tokens + 1, vocabulary) log-probabilities: entry i predicts answer token i."""
    alone = one_image(images, row)
    (height, width) = alone.grids[0]
    pad = setup.encoder.special(IMAGE_PAD)
    asked = setup.prompt.ids(pad, height * width // 4, alone.contexts[0])
    ids = torch.tensor([[*asked, *answer]])
    out = setup.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=alone.pixel_values(),
        image_grid_thw=torch.tensor([[1, height, width]]),
        mm_token_type_ids=(ids == pad).int(),
        use_cache=False,
    )
    return out.logits[0, len(asked) - 1 :].float().log_softmax(-1)
