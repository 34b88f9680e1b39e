"""A tiny random base model and a random adapter on it, as directories: the whole loading path, no quality."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from model.adapter_config import ADAPTER_CONFIG_NAME, PEFT_PREFIX, SCORE_HEAD_NAME, WEIGHTS_NAME
from model.adapters import SCORE_HEAD_MODULE, read_manifest, save_adapter
from model.backbone import EMBEDDED_ADAPTER, base_identity
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


def write_artefact(
    folder: Path, *, seed: int = 0, lora_seed: int | None = None, name: str = "tiny", **changes: Any
) -> Artefact:
    """Write a base and an adapter; ``changes`` replace fields of the manifest.

    Equal seeds give equal bases; another ``lora_seed`` gives another adapter on the same base.
    """
    base = folder / "base"
    model = write_base(base, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if lora_seed is None else lora_seed)
        peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    draw = torch.Generator().manual_seed((seed if lora_seed is None else lora_seed) + 1)
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


def write_embedded_variant(folder: Path, seed: int) -> Path:
    """Write another adapter of the embedded base: the embedded one with its B changed a little."""
    manifest, _ = read_manifest(EMBEDDED_ADAPTER)
    draw = torch.Generator().manual_seed(seed)
    state = {
        key: tensor * (1 + 0.2 * torch.randn(tensor.shape, generator=draw)) if ".lora_B." in key else tensor
        for key, tensor in load_file(EMBEDDED_ADAPTER / WEIGHTS_NAME).items()
    }
    head = EMBEDDED_ADAPTER / SCORE_HEAD_NAME
    if head.exists():
        state |= {f"{PEFT_PREFIX}{SCORE_HEAD_MODULE}.{name}": t for name, t in load_file(head).items()}
    config = json.loads((EMBEDDED_ADAPTER / ADAPTER_CONFIG_NAME).read_text())
    changes = {"name": f"variant {seed}", "files": {}}
    save_adapter(folder, state, config, manifest.model_copy(update=changes))
    return folder
