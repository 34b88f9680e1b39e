"""Scorers of a true Qwen2-VL shape. ``tiny`` is the embedded model with its weights; ``2b`` and ``7b`` have
the published shapes and random weights, made on the device in their number format: true of speed and memory,
without a word about quality. ``toy`` is made like these, in seconds.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from model.adapter_config import LoraRule
from model.adapters import read_manifest
from model.backbone import EMBEDDED_ADAPTER, EMBEDDED_BASE, load_base
from model.checks import CheckedAdapter
from model.conversation import chatml_sha256
from model.fast_paths import use_fast_paths
from model.hosting import Host
from model.images import ImageLimits
from model.isolated_decoding import PictureReader
from model.lora import LoraPair, LoraWeights, load_adapter_weights, merge_adapter
from model.scorer import Scorer
from model.templates import templates_sha256
from model.unmerged import UnmergedAdapters
from schemas.attributes import VOCABULARY
from schemas.manifest import (
    AdapterManifest,
    Answer,
    BaseModelIdentity,
    Conversation,
    ImageRule,
    ScoreScale,
    Training,
)
from tests.model.qwen import qwen_encoder
from tests.model.shapes import meta_model
from tests.model.tiny import tiny_config

_SYSTEM = "You are a helpful assistant."
_NOTHING = "0" * 64
_LEAST_PIXELS = 4 * 784
_RANK = 128
"""Of a random adapter; no more than the model is wide."""
_SLACK = 1.01
"""Of the pixel budget: a picture of exactly the budget must not lose a row to rounding."""


@dataclass(frozen=True)
class Built:
    """A model on its device, ready for scorers of any template and pixel budget.

    Attributes:
        shape: ``tiny``, ``toy``, ``2b`` or ``7b``.
        host: The model with the fast paths, and what belongs to it.
        manifest: Of the adapter that its scorers speak for.
    """

    shape: str
    host: Host
    manifest: AdapterManifest

    @classmethod
    def of(cls, shape: str, device: torch.device, dtype: torch.dtype) -> Built:
        """Load or make the model of a shape."""
        if shape != "tiny":
            return cls(shape, _random_host(shape, device, dtype), _random_manifest(shape))
        pictures = PictureReader(())
        host = Host.load(EMBEDDED_BASE, None, device, dtype, ImageLimits(), pictures)
        merge_adapter(host.model, load_adapter_weights(EMBEDDED_ADAPTER), keep_base=False)
        return cls(shape, host, read_manifest(EMBEDDED_ADAPTER)[0])

    def scorer(self, template: str | None, visual_tokens: int) -> Scorer:
        """A scorer for pictures of at most so many visual tokens; template None = the adapter's default."""
        rule = ImageRule(min_pixels=_LEAST_PIXELS, max_pixels=int(visual_tokens * 784 * _SLACK))
        manifest = self.manifest.model_copy(update={"image": rule})
        checked = CheckedAdapter(manifest, _NOTHING, self.host.path)
        provenance = self.host.provenance(checked, template, "champion")
        head = self.host.head(EMBEDDED_ADAPTER, manifest.score) if self.shape == "tiny" else None
        lock = threading.Lock()
        return Scorer(self.host, manifest, provenance, head, lambda: lock)

    def stock(self) -> Any:
        """The same weights in transformers' own model, as anyone would call ``generate()`` on it."""
        model = self._base()
        if self.shape == "tiny":
            merge_adapter(model, load_adapter_weights(EMBEDDED_ADAPTER), keep_base=False)
        return model

    def reference(self, dtype: torch.dtype) -> Any:
        """transformers' own model in a number format, its adapter as PEFT applies it."""
        if self.shape != "tiny":
            return self._base().to(dtype)
        base = load_base(EMBEDDED_BASE, self.host.device, dtype)
        with warnings.catch_warnings():
            # PEFT asks transformers for an attribute that transformers renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return PeftModel.from_pretrained(base, EMBEDDED_ADAPTER)

    def unmerged(self) -> Any:
        """The model with the fast paths and its adapter beside it; random weights get a random adapter."""
        model = self._base()
        use_fast_paths(model)
        weights = load_adapter_weights(EMBEDDED_ADAPTER) if self.shape == "tiny" else _random_adapter(model)
        UnmergedAdapters(model, {"it": weights}).activate("it")
        return model

    def _base(self) -> Any:
        """transformers' own model without an adapter, in the host's number format."""
        device, dtype = self.host.device, self.host.dtype
        if self.shape == "tiny":
            return load_base(EMBEDDED_BASE, device, dtype)
        model = random_model(shape_config(self.shape), device, dtype)
        # The very tensors of the other model: there is no room for both.
        model.load_state_dict(self.host.model.state_dict(), assign=True)
        return model.requires_grad_(False)


def shape_config(shape: str) -> Qwen2VLConfig:
    """Of ``2b`` and ``7b`` as published; the toy has their vocabulary, which is what full logits cost by."""
    if shape == "toy":
        return tiny_config(
            151_936,
            image_token_id=151_655,
            video_token_id=151_656,
            vision_start_token_id=151_652,
            vision_end_token_id=151_653,
        )
    config = meta_model(shape.upper()).config
    text = config.get_text_config()
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [16, 24, 24]}
    return config


def random_model(config: Qwen2VLConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """A model as transformers initialises it, on the device from its first byte."""
    torch.manual_seed(0)
    with device:
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def _random_adapter(model: Any) -> LoraWeights:
    """LoRA on every linear layer of the language model's blocks, as stage 1 trains it."""
    rank = min(_RANK, model.config.get_text_config().hidden_size)
    rule = LoraRule(rank, rank, False, r".*language_model\.layers\..*_proj", (), ())
    draw = partial(torch.randn, device=model.device)
    pairs = {
        name: LoraPair(
            draw(rank, module.in_features) / module.in_features, draw(module.out_features, rank) / rank
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and rule.wants_lora(name)
    }
    return LoraWeights(rule, pairs, {})


def _random_host(shape: str, device: torch.device, dtype: torch.dtype) -> Host:
    model = random_model(shape_config(shape), device, dtype)
    use_fast_paths(model)
    name = f"random Qwen2-VL-{shape.upper()}"
    pictures = PictureReader(())
    return Host(model, Path(name), name, device, dtype, qwen_encoder(), ImageLimits(), pictures)


def _random_manifest(shape: str) -> AdapterManifest:
    scale, templates = ScoreScale(), ("score_form",)
    return AdapterManifest(
        name=f"random {shape}",
        base_model=BaseModelIdentity(
            name=shape, config_sha256=_NOTHING, tokenizer_sha256=_NOTHING, tensors_sha256=_NOTHING
        ),
        conversation=Conversation(
            system=_SYSTEM,
            chatml_sha256=chatml_sha256(_SYSTEM, "before_image"),
            context_template=" Context: {context}.",
        ),
        answer=Answer(
            templates=templates,
            default_template="score_form",
            templates_sha256=templates_sha256(templates, VOCABULARY, scale),
        ),
        score=scale,
        image=ImageRule(min_pixels=_LEAST_PIXELS, max_pixels=1280 * 784),
        training=Training(stage="stage2", fingerprint=_NOTHING, synthetic=True),
        files={},
    )
