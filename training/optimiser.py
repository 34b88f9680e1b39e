"""Optimisers: AdamW for adapters; Muon with AdamW for training a small model from scratch.

Muon (K. Jordan, 2024; ``torch.optim.Muon``) orthogonalises the updates of weight matrices. From scratch on
the demo's data the same loss takes a fifth fewer steps. Embeddings, the first layer and vectors stay with
AdamW, as its author advises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from training.config import StageConfig

_BETAS = (0.9, 0.98)
"""Runs are short: the usual 0.999 would average squared gradients over more steps than some runs have."""
_MUON_MOMENTUM = 0.95
_VISION = ".visual."
_MUON_PLACES = ("layers.", "blocks.", "merger.")


class JointOptimiser(torch.optim.Optimizer):
    """Several optimisers that step together, for a Trainer and a schedule that know one only."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        # The very groups of the parts: a schedule that changes a learning rate here changes it there.
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Let every part step."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of the parts, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def build_optimiser(model: nn.Module, config: StageConfig) -> torch.optim.Optimizer:
    """Make the optimiser that a stage's configuration names, for the trainable weights."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [(config.learning_rate, named)]
    if config.vision_learning_rate is not None:
        vision = [(name, parameter) for name, parameter in named if _VISION in name]
        others = [(name, parameter) for name, parameter in named if _VISION not in name]
        groups = [(config.learning_rate, others), (config.vision_learning_rate, vision)]
    parts: list[torch.optim.Optimizer] = []
    for rate, some in groups:
        if some and config.optimiser == "muon":
            parts.append(muon_and_adamw(some, rate, config.weight_decay))
        elif some:
            parts.append(_adamw([parameter for _, parameter in some], rate, config.weight_decay))
    return _joined(parts)


def muon_and_adamw(
    named: Sequence[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Muon for the weight matrices of transformer blocks and mergers, AdamW for the rest.

    Args:
        named: The trainable weights, one or more; their names tell which are which.
        learning_rate: Of both: Muon's updates are scaled to the size that AdamW's have.
        weight_decay: On weight matrices.

    Returns:
        Both as one, or the only one that has anything to do.
    """
    by_muon = [parameter for name, parameter in named if _is_for_muon(name, parameter)]
    others = [parameter for name, parameter in named if not _is_for_muon(name, parameter)]
    parts: list[torch.optim.Optimizer] = []
    if others:
        parts.append(_adamw(others, learning_rate, weight_decay))
    if by_muon:
        parts.append(_muon(by_muon, learning_rate, weight_decay))
    return _joined(parts)


def _joined(parts: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    return parts[0] if len(parts) == 1 else JointOptimiser(parts)


def _muon(parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Muon:
    return torch.optim.Muon(
        parameters,
        lr=learning_rate,
        weight_decay=weight_decay,
        momentum=_MUON_MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )


def _adamw(
    parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    return torch.optim.AdamW(_decayed_groups(parameters, weight_decay), lr=learning_rate, betas=_BETAS)


def _is_for_muon(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() == 2 and any(place in name for place in _MUON_PLACES)


def _decayed_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.dim() >= 2 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
