"""An adapter that the authors' code (LLaMA-Factory) or plain PEFT wrote, made one of ours.

What serving must know and their directories do not say comes from RealQA (arXiv 2503.06141): the image
before the question, reasons before scores, whole texts tokenised at once, trimmed decimals, and NEAREST to
at most 262,144 px before Qwen2-VL's own resize.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from model.adapter_config import ADAPTER_CONFIG_NAME, WEIGHTS_NAME
from model.adapters import save_adapter
from model.backbone import base_identity, load_tokenizer, resolve_base
from model.compiling import compile_template
from model.conversation import chatml_sha256
from model.lora import LoraWeights, load_adapter_weights, mismatches
from model.resizing import PILLOW
from model.templates import answer_template, templates_sha256
from model.tokens import IM_END, TextEncoder
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError, ManifestMismatchError
from schemas.manifest import AdapterManifest, Answer, Conversation, ImageRule, ScoreScale, Training

PublishedTemplate = Literal["published_form", "published_prose"]
MIN_PIXELS, MAX_PIXELS = 200_704, 401_408
_TEMPLATES: tuple[PublishedTemplate, ...] = ("published_form", "published_prose")
_SYSTEM = "You are a helpful assistant."
_DESCRIPTION = (
    "Wrapped from a PEFT directory. Question, answer, decimals and pixels as RealQA publishes them "
    "(arXiv 2503.06141); the wording of its other attributes is not published, so they are free text here."
)


@dataclass(frozen=True, slots=True)
class WrapSettings:
    """What a PEFT directory does not say about itself.

    Attributes:
        base_model: Name or path of the base that the adapter was trained on.
        name: Of the adapter, as rows name it.
        template: Answer that serving asks for unless told otherwise: ``published_form`` (Q3) or
            ``published_prose`` (Q2).
        score_range: Range of the training data's own labels, lowest and highest.
        min_pixels, max_pixels: Pixel budget that it was trained with.
    """

    base_model: str
    name: str
    template: PublishedTemplate = "published_form"
    score_range: tuple[float, float] = (0.0, 10.0)
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS


def wrap_adapter(source: Path, output: Path, settings: WrapSettings) -> AdapterManifest:
    """Write an adapter directory of ours from one of PEFT's, of either key layout; complete or not at all.

    Args:
        source: Directory with ``adapter_config.json`` and ``adapter_model.safetensors``; not changed.
        output: Must not exist, or be empty.
        settings: What the directory does not say.

    Returns:
        The manifest, as written.

    Raises:
        ConfigurationError: With every reason: no safetensors, a feature that is not supported, tensors that
            this base has no place for, or a tokeniser that cannot write the answer.
    """
    config, state = _read(source)
    weights = load_adapter_weights(source)
    base = resolve_base(settings.base_model)
    problems = mismatches(_shapes_of(base), weights)
    if problems:
        raise ManifestMismatchError([f"{source} on {settings.base_model}: {problem}" for problem in problems])
    manifest = _manifest(base, settings, weights, fingerprint=_sha256(source / WEIGHTS_NAME))
    encoder = TextEncoder(load_tokenizer(base))
    for name in manifest.answer.templates:
        template = answer_template(name, manifest.vocabulary, manifest.score)
        compile_template(template, encoder, encoder.special(IM_END), manifest.answer.tokenisation)
    return save_adapter(output, state, _current_targets(config, weights), manifest)


def _read(source: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if (source / "adapter_model.bin").exists() and not (source / WEIGHTS_NAME).exists():
        raise ConfigurationError(
            f"{source} holds adapter_model.bin, a pickle that can run code when it is read; save it as "
            f"{WEIGHTS_NAME} first"
        )
    try:
        config = json.loads((source / ADAPTER_CONFIG_NAME).read_bytes())
        state = load_file(source / WEIGHTS_NAME)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigurationError(f"{source}: no readable PEFT adapter ({error})") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{source / ADAPTER_CONFIG_NAME}: holds no JSON object")
    return config, state


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _shapes_of(base: Path) -> Qwen2VLForConditionalGeneration:
    """Build the base without its weights: a 7B takes seconds, and no memory."""
    config = Qwen2VLConfig.from_pretrained(base, local_files_only=True)
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration(config)


def _current_targets(config: Mapping[str, Any], weights: LoraWeights) -> dict[str, Any]:
    """Name every module with LoRA: a pattern written for old names finds nothing in PEFT today."""
    return {**config, "target_modules": sorted(weights.pairs), "exclude_modules": None}


def _manifest(
    base: Path, settings: WrapSettings, weights: LoraWeights, *, fingerprint: str
) -> AdapterManifest:
    low, high = settings.score_range
    score = ScoreScale(native_low=low, native_high=high, digits=3, trimmed=True)
    return AdapterManifest(
        name=settings.name,
        description=_DESCRIPTION,
        base_model=base_identity(base, settings.base_model),
        conversation=Conversation(
            system=_SYSTEM, chatml_sha256=chatml_sha256(_SYSTEM, "after_image"), instruction="after_image"
        ),
        answer=Answer(
            templates=_TEMPLATES,
            default_template=settings.template,
            templates_sha256=templates_sha256(_TEMPLATES, VOCABULARY, score),
            tokenisation="whole_text",
        ),
        score=score,
        image=ImageRule(
            min_pixels=settings.min_pixels,
            max_pixels=settings.max_pixels,
            resize_rule="nearest_262144",
            image_decoder=PILLOW,  # what they learnt from
        ),
        training=Training(stage="stage2", vision=_vision(weights), fingerprint=fingerprint),
        files={},
    )


def _vision(weights: LoraWeights) -> Literal["frozen", "lora", "full"]:
    if any(module.startswith("model.visual.") for module in weights.pairs):
        return "lora"
    return "full" if any(name.startswith("model.visual.") for name in weights.replaced) else "frozen"
