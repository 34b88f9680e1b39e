"""A small adapter of every kind, with a manifest, for the tests of its weights and of its directory."""

from __future__ import annotations

import json

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from model.adapter_config import WEIGHTS_NAME
from model.adapters import read_manifest, verify_adapter
from schemas.manifest import (
    AdapterManifest,
    Answer,
    BaseModelIdentity,
    CompositeWeights,
    Conversation,
    EvaluationResult,
    ImageRule,
    Training,
)
from tests.model.tiny import tiny_model

LLM = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VISION = r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
BOTH = rf".*layers\.\d+\..*_proj|{VISION}"
BASE = BaseModelIdentity(
    name="tiny", config_sha256="c" * 64, tokenizer_sha256="t" * 64, tensors_sha256="s" * 64
)


def manifest(vision: str = "lora", **changes) -> AdapterManifest:
    fields = {
        "name": "test",
        "description": "of a test",
        "base_model": BASE,
        "conversation": Conversation(chatml_sha256="a" * 64, context_template="About: {context}"),
        "answer": Answer(templates=("one", "two"), default_template="one", templates_sha256="b" * 64),
        "image": ImageRule(min_pixels=784, max_pixels=7840),
        "composite": CompositeWeights(intercept=1.0, weights={"composition": 0.5}),
        "training": Training(stage="stage2", labelled_by="someone", vision=vision, fingerprint="f" * 64),
        "evaluation": (EvaluationResult(dataset="d", target="mos", n=3, srcc=0.5),),
        "files": {},
    }
    made = AdapterManifest(**{**fields, **changes})
    # As a reader sees it: with every field given.
    return AdapterManifest.model_validate_json(made.to_bytes())


def config(vision: str = "lora", **changes) -> LoraConfig:
    options = {"r": 4, "lora_alpha": 8, "target_modules": BOTH if vision == "lora" else LLM}
    if vision == "full":
        options["modules_to_save"] = ["visual"]
    return LoraConfig(**{**options, **changes})


def peft_model(vision: str = "lora", **changes) -> PeftModel:
    """The tiny model under a LoRA that changes its answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of A
        peft = get_peft_model(tiny_model(), config(vision, **changes))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.05)
            elif "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return peft.eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    ids = torch.tensor([[10, 11, 2, *[4] * 6, 3, 20, 21]])
    patches = torch.randn(24, 1176, generator=random)
    dtype = next(model.parameters()).dtype
    return model(
        input_ids=ids,
        pixel_values=patches.to(dtype),
        image_grid_thw=torch.tensor([[1, 4, 6]]),
        mm_token_type_ids=(ids == 4).int(),
        attention_mask=torch.ones_like(ids),
    ).logits


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def problems(folder, **options) -> list[str]:
    return verify_adapter(folder, read_manifest(folder)[0], **options)


def rewrite(folder, change):
    """Change the tensors of a directory, without its manifest."""
    state = load_file(folder / WEIGHTS_NAME)
    save_file(change(state), folder / WEIGHTS_NAME, metadata={"format": "pt"})
