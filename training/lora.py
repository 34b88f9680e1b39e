"""Where an adapter changes the model: LoRA on all linears of language model and vision blocks.

Not on merger, patch embedding and output head (RealQA's recipe, realqa.md of the design). LoRA on the
vision blocks and a full copy of the vision tower exclude each other: given both, PEFT silently makes no
LoRA there at all, so ``vision`` is one of three.
"""

from __future__ import annotations

import warnings
from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Qwen2VLForConditionalGeneration

from model.adapters import SCORE_HEAD_MODULE
from training.config import LoraSettings

Vision = Literal["frozen", "lora", "full"]

_LANGUAGE = "model.language_model.layers."
_VISION = "model.visual.blocks."
_VISION_TOWER = "visual"


def lora_targets(model: Qwen2VLForConditionalGeneration, vision: Vision = "lora") -> list[str]:
    """Full names of the linears that get an update, in the model's order.

    Args:
        model: A Qwen2-VL of any size; the meta device will do.
        vision: ``lora`` includes the vision blocks; the other two leave them to others.
    """
    places = (_LANGUAGE, _VISION) if vision == "lora" else (_LANGUAGE,)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(places)
    ]


def attach_lora(
    model: Qwen2VLForConditionalGeneration,
    settings: LoraSettings,
    vision: Vision = "lora",
    score_head: nn.Module | None = None,
) -> PeftModel:
    """Freeze the base and put a trainable adapter on it; a score head becomes part of both."""
    whole = [_VISION_TOWER] if vision == "full" else []
    if score_head is not None:
        # PEFT then keeps it in checkpoints, too; what is written in the end stands in a file of its own.
        model.add_module(SCORE_HEAD_MODULE, score_head)
        whole.append(SCORE_HEAD_MODULE)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=lora_targets(model, vision),
        modules_to_save=whole or None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.2x by a name that was renamed there; the answer is the same.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return get_peft_model(model, config)
