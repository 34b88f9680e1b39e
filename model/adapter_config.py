"""What of PEFT's ``adapter_config.json`` is supported; everything else is refused by name. No torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.tensor_files import current_name, old_name
from schemas.errors import ManifestMismatchError

ADAPTER_CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
SCORE_HEAD_NAME = "score_head.safetensors"
PEFT_PREFIX = "base_model.model."

# Read by us, or without any effect on finished weights.
_KNOWN_FIELDS = frozenset(
    (
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "modules_to_save",
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "qalora_group_size",
        "eva_config",
    )
)
# Supported at this value only; any other is another computation.
_FIXED_FIELDS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    # PiSSA, OLoRA and their like change the base weights before training.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}


@dataclass(frozen=True)
class LoraRule:
    """The supported part of an adapter configuration.

    Attributes:
        rank: r of every LoRA.
        alpha: Scaling numerator.
        rslora: Divide alpha by √r instead of r (arXiv 2312.03732).
        targets: Modules with LoRA: name endings, or one regular expression for whole names.
        excluded: Modules without, in the same two forms.
        saved: Modules trained in full and stored whole.
    """

    rank: int
    alpha: float
    rslora: bool
    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    saved: tuple[str, ...]

    @property
    def scale(self) -> float:
        """Factor of B·A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def wants_lora(self, module: str) -> bool:
        """Whether ``module`` (current name) is a target, ``saved`` not considered."""
        return _matches(self.targets, module) and not _matches(self.excluded, module)

    def saves(self, module: str) -> bool:
        """Whether ``module`` (current name) is, or lies in, a module stored whole."""
        return any(
            re.fullmatch(rf"(.*\.)?{re.escape(saved)}(\..*)?", name)
            for saved in self.saved
            for name in (module, old_name(module))
        )

    def conflicts(self, tensors: Iterable[str]) -> list[str]:
        """Say where LoRA is asked for inside a module that is stored whole.

        PEFT silently makes no LoRA there, so the adapter is not what its configuration says.

        Args:
            tensors: Names of an adapter's tensors, current layout.
        """
        whole = {name.rpartition(".")[0] for name in tensors if ".lora_" not in name}
        twice = sorted(module for module in whole if self.wants_lora(module))
        return [
            f"target_modules and modules_to_save both name {module}: no LoRA was trained there"
            for module in twice[:3]
        ]


def _matches(patterns: str | tuple[str, ...], module: str) -> bool:
    # A regular expression may have been written for either layout's names.
    if isinstance(patterns, str):
        return any(re.fullmatch(patterns, name) for name in (module, old_name(module)) if patterns)
    endings = {current_name(pattern) for pattern in patterns}
    return any(module == ending or module.endswith(f".{ending}") for ending in endings)


def parse_adapter_config(config: Mapping[str, Any]) -> LoraRule:
    """Read a PEFT LoRA configuration.

    Raises:
        ManifestMismatchError: With every unsupported feature by name.
    """
    problems = _unsupported(config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        problems.append(f"r is {rank!r}, not a rank")
    if not isinstance(alpha, (int, float)):
        problems.append(f"lora_alpha is {alpha!r}, not a number")
    if not isinstance(config.get("target_modules"), (str, list, tuple, set)):
        problems.append("target_modules names no modules")
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config.get(name), str) and not _is_pattern(config[name]):
            problems.append(f"{name} is no regular expression: {config[name]!r}")
    if problems:
        raise ManifestMismatchError([f"{ADAPTER_CONFIG_NAME}: {problem}" for problem in problems])
    return LoraRule(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora")),
        targets=_names(config["target_modules"]),
        excluded=_names(config.get("exclude_modules")),
        saved=tuple(sorted(config.get("modules_to_save") or ())),
    )


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    problems = []
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type is {config.get('peft_type')!r}, not 'LORA'")
    for name, value in sorted(config.items()):
        if name in _FIXED_FIELDS:
            if value not in _FIXED_FIELDS[name]:
                problems.append(f"{name}={value!r} is not supported")
        elif value and name not in _KNOWN_FIELDS:
            problems.append(f"{name} is not supported")
    return problems


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _names(value: Any) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(sorted(value or ()))


def read_adapter_config(directory: Path) -> LoraRule:
    """Read ``adapter_config.json`` of an adapter directory.

    Raises:
        ManifestMismatchError: Missing, unreadable, or with unsupported features.
    """
    path = directory / ADAPTER_CONFIG_NAME
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestMismatchError(f"{ADAPTER_CONFIG_NAME}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ManifestMismatchError(f"{ADAPTER_CONFIG_NAME}: holds no JSON object")
    return parse_adapter_config(content)


def tensor_name(key: str) -> str:
    """A key of an adapter file → name in the current layout, without PEFT's prefix and adapter name."""
    name = current_name(key.removeprefix(PEFT_PREFIX))
    return re.sub(r"\.lora_([AB])\.default\.", r".lora_\1.", name)
