"""Training that goes on from an adapter, not from the base: its weights become where the new one starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from model.adapter_config import PEFT_PREFIX, read_adapter_config
from model.adapters import SCORE_HEAD_MODULE, check_adapter, read_manifest
from model.backbone import base_identity
from model.lora import load_adapter_weights
from model.score_heads import load_head
from schemas.errors import ConfigurationError
from schemas.manifest import READOUT_HEADS, AdapterManifest
from training.config import StageConfig

_HEAD_PREFIX = f"{PEFT_PREFIX}{SCORE_HEAD_MODULE}."


@dataclass(frozen=True, slots=True)
class StartingAdapter:
    """An adapter that fits a base and a configuration.

    Attributes:
        directory: Where it is.
        manifest: Its manifest.
        revision: sha256 of that.
    """

    directory: Path
    manifest: AdapterManifest
    revision: str


def starting_adapter(directory: Path, base: Path, config: StageConfig) -> StartingAdapter:
    """Check that training can go on from an adapter.

    Args:
        directory: The adapter.
        base: Directory of the base model.
        config: Of the stage to train.

    Raises:
        ConfigurationError: It is damaged or of another base, or changes other parts of the model, or by
            other sizes, than the configuration does: every reason.
    """
    manifest, revision = read_manifest(directory)
    check_adapter(directory, manifest, base_identity(base, manifest.base_model.name))
    problems = []
    if config.trainable != "lora":
        problems.append("stage 'base' cannot go on from an adapter")
    if config.initialise != "base":
        problems.append("initialise: an adapter's weights mean nothing on random ones")
    if manifest.training.vision != config.vision:
        problems.append(f"vision is {config.vision!r}; the adapter has {manifest.training.vision!r}")
    rule = read_adapter_config(directory)
    for name, ours, theirs in (
        ("rank", config.lora.rank, rule.rank),
        ("alpha", config.lora.alpha, rule.alpha),
    ):
        if ours != theirs:
            problems.append(f"lora.{name} is {ours:g}; the adapter has {theirs:g}")
    if manifest.conversation.instruction != config.instruction:
        problems.append(
            f"instruction is {config.instruction!r}; the adapter has {manifest.conversation.instruction!r}"
        )
    for name in ("native_low", "native_high"):
        ours, theirs = getattr(config.score, name), getattr(manifest.score, name)
        if ours != theirs:
            problems.append(f"score.{name} is {ours:g}; the adapter has {theirs:g}")
    if problems:
        raise ConfigurationError([f"to go on from {directory}: {problem}" for problem in problems])
    return StartingAdapter(directory, manifest, revision)


def start_from(model: PeftModel, start: StartingAdapter, config: StageConfig) -> None:
    """Give a model's untrained adapter the weights of another; also its score head where it is the same kind.

    Raises:
        ConfigurationError: The adapter changes other modules.
    """
    weights = load_adapter_weights(start.directory)
    untrained = get_peft_model_state_dict(model, save_embedding_layers=False)
    state = {f"{PEFT_PREFIX}{name}": tensor for name, tensor in weights.replaced.items()}
    for name, pair in weights.pairs.items():
        state[f"{PEFT_PREFIX}{name}.lora_A.weight"] = pair.down
        state[f"{PEFT_PREFIX}{name}.lora_B.weight"] = pair.up
    ours = {name: tensor for name, tensor in untrained.items() if name.startswith(_HEAD_PREFIX)}
    others = sorted((untrained.keys() - ours.keys()) ^ state.keys())
    if others:
        raise ConfigurationError(
            f"to go on from {start.directory}: it changes other modules: {', '.join(others[:3])}"
        )
    set_peft_model_state_dict(model, {**state, **ours, **_head_state(model, start, config)})


def keeps_head(start: StartingAdapter, config: StageConfig) -> bool:
    """Whether the score goes on as it was read; else its head starts anew, or there was none."""
    ours, theirs = config.score, start.manifest.score
    size = {"bins": "bins", "mlp": "hidden_width", "levels": "level_words", "soft_levels": "level_words"}
    return ours.head == theirs.head and (
        ours.head not in size or getattr(ours, size[ours.head]) == getattr(theirs, size[ours.head])
    )


def _head_state(model: PeftModel, start: StartingAdapter, config: StageConfig) -> dict[str, torch.Tensor]:
    if config.score.head not in READOUT_HEADS or not keeps_head(start, config):
        return {}
    theirs = start.manifest.score
    width = model.config.get_text_config().hidden_size
    head = load_head(start.directory, theirs, width, model.device)
    assert head is not None  # it is one that has weights
    return {f"{_HEAD_PREFIX}{name}": tensor for name, tensor in head.state_dict().items()}
