"""A tiny random base model and a random adapter on it, as directories: the whole loading path, no quality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from model.adapters import save_adapter
from model.backbone import base_identity
from model.conversation import chatml_sha256
from model.templates import templates_sha256
from model.tokens import IM_END, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from schemas.attributes import VOCABULARY
from schemas.manifest import AdapterManifest, Answer, Conversation, ImageRule, ScoreScale, Training
from tests.model.small_tokeniser import small_encoder
from tests.model.tiny import tiny_model

SYSTEM = "You are a helpful assistant."
TEMPLATES = ("mix", "score_direct", "score_form", "score_form_reasons", "score_prose")
TARGETS = r".*layers\.\d+\..*_proj|.*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"


@dataclass(frozen=True)
class Artefact:
    base: Path
    adapter: Path


def write_base(folder: Path, seed: int = 0) -> Any:
    """Save a tiny base model with its tokeniser; returns the model."""
    encoder = small_encoder()
    model = tiny_model(
        encoder.vocab_size,
        seed,
        image_token_id=encoder.special(IMAGE_PAD),
        video_token_id=encoder.special(VIDEO_PAD),
        vision_start_token_id=encoder.special(VISION_START),
        vision_end_token_id=encoder.special(VISION_END),
        eos_token_id=encoder.special(IM_END),
    )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(encoder._tokenizer.to_str())
    return model


def write_artefact(folder: Path, *, seed: int = 0, name: str = "tiny", **changes: Any) -> Artefact:
    """Write a base and an adapter; ``changes`` replace fields of the manifest."""
    base = folder / "base"
    model = write_base(base, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter_name, parameter in peft.named_parameters():
            if "lora_B" in parameter_name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.05)
    fields: dict[str, Any] = {
        "name": name,
        "base_model": base_identity(base, str(base)),
        "conversation": Conversation(
            chatml_sha256=chatml_sha256(SYSTEM, "before_image"), context_template="\nContext: {context}"
        ),
        "answer": Answer(
            templates=TEMPLATES,
            default_template="score_form",
            templates_sha256=templates_sha256(TEMPLATES, VOCABULARY, ScoreScale()),
        ),
        "image": ImageRule(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16),
        "training": Training(stage="stage2", fingerprint="f" * 64, synthetic=True),
        "files": {},
        **changes,
    }
    adapter = folder / "adapter"
    save_adapter(adapter, peft, None, AdapterManifest(**fields))
    return Artefact(base, adapter)
