"""A base without its training: the same shape, random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration


def random_base(base: Path, seed: int) -> Qwen2VLForConditionalGeneration:
    """Build a model of a base's shape as transformers initialises it, in float32, on the CPU.

    Args:
        base: Directory of the base; its weights are not read.
        seed: Same seed, same weights; torch's own generator stays as it is.
    """
    config = Qwen2VLConfig.from_pretrained(base, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2VLForConditionalGeneration(config).float().eval()
