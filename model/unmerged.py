"""Several adapters beside each other on one base, one of them active: W·x + scale · B·(A·x) at run time.

    adapters = UnmergedAdapters(model, {"champion": ours, "challenger": theirs})
    with adapters.turn("challenger"):
        ...                                 # the model computes with that adapter

The base's tensors are never written. Modules that an adapter stores whole are swapped by reference. Costs two
thin matrix products a linear layer more than a merged adapter, and in bfloat16 rounds once more a layer;
in float32 the two forms agree to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from model.lora import LoraWeights, claim, mismatches
from schemas.errors import ManifestMismatchError


class UnmergedAdapters:
    """Adapters on one base model, by name. None is active at first.

    Args:
        model: The base that all of them were trained on.
        adapters: Name → weights, from ``load_adapter_weights``.

    Raises:
        ManifestMismatchError: One does not fit the model; nothing was changed. With every reason.
        RuntimeError: The model holds an adapter already.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, LoraWeights]) -> None:
        problems = [
            f"{name}: {problem}"
            for name, weights in adapters.items()
            for problem in mismatches(model, weights)
        ]
        if problems:
            raise ManifestMismatchError(problems)
        claim(model)
        self._layers = _take_over_layers(model, adapters)
        self._parameters = dict(model.named_parameters())
        self._changes: dict[str | None, _Change] = {None: _Change({}, {})}
        self._changes |= {name: self._change_of(weights) for name, weights in adapters.items()}
        touched = {name for change in self._changes.values() for name in change.replaced}
        base = {name: self._parameters[name].data for name in touched}
        for change in self._changes.values():
            change.replaced.update({name: base[name] for name in touched if name not in change.replaced})
        self._active: str | None = None
        self._lock = threading.Lock()

    def activate(self, name: str | None) -> None:
        """Make the model compute with an adapter of that name; None = with the base alone.

        Not while the model computes; ``turn`` sees to that.
        """
        if name == self._active:
            return
        change = self._changes[name]
        for module, layer in self._layers.items():
            layer.pair = change.pairs.get(module)
        for parameter, tensor in change.replaced.items():
            self._parameters[parameter].data = tensor
        self._active = name

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Hold the model with an adapter active; one thread at a time."""
        with self._lock:
            self.activate(name)
            yield

    def _change_of(self, weights: LoraWeights) -> _Change:
        pairs = {}
        for module, pair in weights.pairs.items():
            wanted = self._parameters[f"{module}.weight"]
            # Scaled before it is rounded to the model's number format.
            up = (pair.up.float() * weights.rule.scale).to(wanted)
            pairs[module] = (pair.down.to(wanted), up)
        replaced = {name: tensor.to(self._parameters[name]) for name, tensor in weights.replaced.items()}
        return _Change(pairs, replaced)


@dataclass(frozen=True)
class _Change:
    """What one adapter changes, on the model's device and in its number format.

    Attributes:
        pairs: Module → (A, scale · B).
        replaced: Tensor → value; of every tensor that any of the adapters replaces.
    """

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
    replaced: dict[str, torch.Tensor]


class _LowRankLayer:
    """A linear layer's forward, with the low-rank change of the moment."""

    def __init__(self, linear: Any) -> None:
        self._plain = linear.forward
        self.pair: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._plain(inputs)
        if self.pair is None:
            return found
        down, up = self.pair
        return found + functional.linear(functional.linear(inputs, down), up)


def _take_over_layers(model: nn.Module, adapters: Mapping[str, LoraWeights]) -> dict[str, _LowRankLayer]:
    modules = dict(model.named_modules())
    layers = {}
    for name in sorted({module for weights in adapters.values() for module in weights.pairs}):
        layers[name] = _LowRankLayer(modules[name])
        modules[name].forward = layers[name]
    return layers
