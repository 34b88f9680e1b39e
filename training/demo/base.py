"""The demo's base model before any training: a Qwen2-VL of three million parameters.

Two parts do not start at random. The rows of the patch embedding are a two-dimensional cosine basis, so
that fine detail, which blur destroys and which is a thousandth of a photograph's energy, is visible from the
first step. And the first vision block starts by measuring *how much* of each frequency band a patch holds:
the sign of a coefficient says nothing about sharpness or colourfulness, its magnitude does. With random rows
a model of this size does not learn blur in the time there is. Training changes both freely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from model.patches import CLIP_STD, MERGE, PATCH, TEMPORAL
from model.tokens import IM_END, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from training.demo.tokenizer import END_OF_TEXT

_HIDDEN, _LAYERS, _INTERMEDIATE = 192, 4, 512
_VISION, _BLOCKS, _HEAD = 160, 4, 32
_CHROMA_ROWS = 14
_BANDS = 17
"""Bands of magnitudes: luminance by whole frequencies 0-12, two chroma axes at and above frequency 0."""
_LUMA_ROWS = _VISION - _CHROMA_ROWS - _BANDS - 1
_CONSTANT = 3.0
"""Value of the last channel before the first block's MLP. Layer normalisation would otherwise hide how strong
a patch is altogether: the constant's share of the energy tells it."""
_MAGNITUDE_GAIN = 8.0
"""How steep |z| is approximated: faint detail would be squared away by less."""
_LUMA = (0.299, 0.587, 0.114)
_RED_GREEN, _BLUE_YELLOW = (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5)
_DECAY = 1.25
"""Amplitudes of photographs fall as about frequency ** -1.5 (measured on the ``train`` photographs);
rows are amplified by frequency ** 1.25, so that no frequency drowns another and noise is not all there is."""


def base_config(tokenizer: Tokenizer) -> Qwen2VLConfig:
    """Architecture of the base, for a tokeniser."""
    ids = {name: tokenizer.token_to_id(name) for name in (END_OF_TEXT, IM_END)}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": _HIDDEN,
            "intermediate_size": _INTERMEDIATE,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HIDDEN // _HEAD,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "bos_token_id": ids[END_OF_TEXT],
            "eos_token_id": ids[IM_END],
            "pad_token_id": ids[END_OF_TEXT],
            # Time, height and width share half of a head, as 16 + 24 + 24 of 64 in Qwen2-VL.
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": _BLOCKS,
            "embed_dim": _VISION,
            "num_heads": _VISION // _HEAD,
            "hidden_size": _HIDDEN,
            "mlp_ratio": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL,
        },
        image_token_id=tokenizer.token_to_id(IMAGE_PAD),
        video_token_id=tokenizer.token_to_id(VIDEO_PAD),
        vision_start_token_id=tokenizer.token_to_id(VISION_START),
        vision_end_token_id=tokenizer.token_to_id(VISION_END),
        tie_word_embeddings=True,
    )


@dataclass(frozen=True, slots=True)
class CosineRow:
    """One row of the patch embedding.

    Attributes:
        band: Which band of magnitudes it belongs to.
        weights: (3, PATCH, PATCH).
    """

    band: int
    weights: npt.NDArray[np.float64]


def cosine_rows() -> list[CosineRow]:
    """Rows of the patch embedding: luminance by rising frequency, then the lowest chroma."""
    position = np.arange(PATCH)
    basis = np.cos(np.pi * (position[None] + 0.5) * position[:, None] / PATCH) * math.sqrt(2 / PATCH)
    basis[0] /= math.sqrt(2)
    order = sorted(
        (math.hypot(down, across), down, across) for down in range(PATCH) for across in range(PATCH)
    )
    # Inputs are divided by CLIP's deviations; the weights of luminance are of colours before that.
    luma = np.array(_LUMA) * np.array(CLIP_STD)
    luma /= luma.sum()
    rows = []
    for frequency, down, across in order[:_LUMA_ROWS]:
        gain = 0.3 * frequency**_DECAY if frequency else 1 / PATCH
        weights = gain * luma[:, None, None] * np.outer(basis[down], basis[across])
        rows.append(CosineRow(min(round(frequency), 12), weights))
    for frequency, down, across in order[: _CHROMA_ROWS // 2]:
        gain = 0.5 * frequency**_DECAY if frequency else 0.15
        for index, axis in enumerate((_RED_GREEN, _BLUE_YELLOW)):
            weights = gain * np.array(axis)[:, None, None] * np.outer(basis[down], basis[across])
            rows.append(CosineRow(13 + 2 * index + (frequency > 0), weights))
    return rows


def channel_groups() -> tuple[list[int], list[int]]:
    """Channels behind the first block, by what they hold.

    Returns:
        Those that tell something on average over a picture: magnitudes of the bands, brightness, two colours
        and the constant. And those that average to nothing, where more can be written: signed coefficients of
        luminance.
    """
    rows = len(cosine_rows())
    chroma = rows - _CHROMA_ROWS
    return [*range(rows, rows + _BANDS), 0, chroma, chroma + 1, _VISION - 1], list(range(1, chroma))


def create_base(tokenizer: Tokenizer, seed: int) -> Qwen2VLForConditionalGeneration:
    """Build the untrained base; same seed, same weights, and the caller's random state stays as it is."""
    config = base_config(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    _see_detail(model.model.visual)
    return model


@torch.no_grad()
def _see_detail(visual: Any) -> None:
    """Start with cosine rows, and with a first block that measures magnitudes by band."""
    rows = cosine_rows()
    embedding, block = visual.patch_embed.proj.weight, visual.blocks[0]
    embedding.zero_()
    for channel, row in enumerate(rows):
        # Every frame of a patch holds the same picture: each row is spread over the frames.
        embedding[channel] = torch.from_numpy(row.weights)[:, None].expand_as(embedding[channel]) / TEMPORAL
    block.attn.proj.bias[-1] = _CONSTANT
    # Random weights, of hundreds of units as steep as these, would drown what the bands measure.
    bands = slice(len(rows), len(rows) + _BANDS)
    block.mlp.fc2.weight[bands] = 0
    # quick_gelu(z) + quick_gelu(-z) = z tanh(0.851 z): nearly |z|.
    for channel, row in enumerate(rows):
        members = sum(other.band == row.band for other in rows)
        for side, sign in ((channel, 1.0), (channel + _VISION, -1.0)):
            block.mlp.fc1.weight[side, channel] = sign * _MAGNITUDE_GAIN
            block.mlp.fc2.weight[len(rows) + row.band, side] = 2 / (members * _MAGNITUDE_GAIN)


def save_base(model: Qwen2VLForConditionalGeneration, tokenizer: Tokenizer, path: Path) -> None:
    """Write a base model's directory: config, tokeniser, weights in half precision."""
    path.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(path)
    # Readable for all who may read the folder; the writer of safetensors leaves it to its owner.
    (path / "model.safetensors").chmod(0o644)
    tokenizer.save(str(path / "tokenizer.json"))
