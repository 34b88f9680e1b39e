"""A Qwen2-VL small enough for a test: true architecture, random weights."""

from __future__ import annotations

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration


def tiny_config(
    vocab_size: int = 512,
    *,
    image_token_id: int = 4,
    video_token_id: int = 5,
    vision_start_token_id: int = 2,
    vision_end_token_id: int = 3,
    eos_token_id: int | None = None,
    hidden_size: int = 64,
    layers: int = 2,
    tie_word_embeddings: bool = False,
) -> Qwen2VLConfig:
    """Configuration of the small model: 4 query heads, 2 key heads, head dimension hidden_size / 4."""
    head_dim = hidden_size // 4
    half = head_dim // 2  # the three M-RoPE sections share half of the head dimension
    temporal = half // 4
    height = (half - temporal) // 2
    return Qwen2VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "bos_token_id": None,
            "eos_token_id": eos_token_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [temporal, height, half - temporal - height],
            },
        },
        vision_config={
            "depth": layers,
            "embed_dim": 32,
            "num_heads": 2,
            "hidden_size": hidden_size,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        vision_start_token_id=vision_start_token_id,
        vision_end_token_id=vision_end_token_id,
        tie_word_embeddings=tie_word_embeddings,
    )


def tiny_model(
    vocab_size: int = 512,
    seed: int = 0,
    *,
    image_token_id: int = 4,
    video_token_id: int = 5,
    vision_start_token_id: int = 2,
    vision_end_token_id: int = 3,
    eos_token_id: int | None = None,
    hidden_size: int = 64,
    layers: int = 2,
    scale: float = 8.0,
) -> Qwen2VLForConditionalGeneration:
    """Build the small model in fp32, eval mode, weights drawn from ``seed`` alone.

    Args:
        vocab_size: Tokens; the special ids must lie below it.
        seed: Equal seeds give equal weights; the caller's random state is left as it was.
        scale: Every weight matrix times this: at the usual initialisation (0.02) all distributions are
            so flat that a wrong position or mask hides below any tolerance.
    """
    config = tiny_config(
        vocab_size,
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        vision_start_token_id=vision_start_token_id,
        vision_end_token_id=vision_end_token_id,
        eos_token_id=eos_token_id,
        hidden_size=hidden_size,
        layers=layers,
    )
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(scale)
    model.generation_config.eos_token_id = eos_token_id
    model.generation_config.pad_token_id = 0
    return model.float().eval()
