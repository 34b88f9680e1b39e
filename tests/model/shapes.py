"""The true shapes of Qwen2-VL-Instruct, from its published config.json; weights nowhere."""

from __future__ import annotations

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

_TEXT = {
    "2B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}


def meta_model(size: str) -> Qwen2VLForConditionalGeneration:
    """A model of a published size on the meta device, "2B" or "7B"."""
    text = _TEXT[size]
    config = Qwen2VLConfig(
        text_config={**text, "num_hidden_layers": 28},
        vision_config={"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": text["hidden_size"]},
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration(config)
