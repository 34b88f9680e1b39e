"""LoRA weights: read, checked against the model, merged into it, and taken out again bit by bit.

``model.unmerged`` keeps several beside each other on one base.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from model.adapter_config import (
    ADAPTER_CONFIG_NAME,
    WEIGHTS_NAME,
    LoraRule,
    read_adapter_config,
    tensor_name,
)
from schemas.errors import ManifestMismatchError

_LORA_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_HELD_FLAG = "_holds_an_adapter"


@dataclass(frozen=True)
class LoraPair:
    """Low-rank change of one linear module: ΔW = scale · up @ down.

    Attributes:
        down: A, (rank, in features).
        up: B, (out features, rank).
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True)
class LoraWeights:
    """What an adapter changes, by current module and tensor names, in the number format of its file.

    Attributes:
        rule: The adapter's configuration.
        pairs: Module → its low-rank change.
        replaced: Tensor → the value that takes its place (``modules_to_save``).
    """

    rule: LoraRule
    pairs: Mapping[str, LoraPair]
    replaced: Mapping[str, torch.Tensor]


def load_adapter_weights(directory: Path) -> LoraWeights:
    """Read the weights of an adapter directory, of old or new key layout.

    Reads ``adapter_config.json`` and ``adapter_model.safetensors`` only; ``model.adapters.check_adapter``
    is for everything else.

    Raises:
        ManifestMismatchError: Unreadable, incomplete or unsupported, or a LoRA that changes nothing; with
            every reason.
    """
    rule = read_adapter_config(directory)
    try:
        state = load_file(directory / WEIGHTS_NAME)
    except (OSError, SafetensorError) as error:
        raise ManifestMismatchError(f"{WEIGHTS_NAME}: cannot be read ({error})") from error
    return parse_state(rule, state)


def parse_state(rule: LoraRule, state: Mapping[str, torch.Tensor]) -> LoraWeights:
    """Sort an adapter's tensors and check what can be checked without the model.

    Args:
        rule: The adapter's configuration.
        state: PEFT's keys, of either layout, → tensors.

    Raises:
        ManifestMismatchError: With every reason.
    """
    sides: dict[str, dict[str, torch.Tensor]] = {"A": {}, "B": {}}
    replaced: dict[str, torch.Tensor] = {}
    problems = []
    for key, tensor in state.items():
        name = tensor_name(key)
        found = _LORA_KEY.fullmatch(name)
        if found:
            sides[found["side"]][found["module"]] = tensor
        elif "lora_" in name:
            problems.append(f"{WEIGHTS_NAME}: {name} is not supported")
        else:
            replaced[name] = tensor
        if not torch.isfinite(tensor).all():
            problems.append(f"{WEIGHTS_NAME}: {name} holds values that are not finite")
    problems += [
        f"{WEIGHTS_NAME}: {module} has lora_{'A' if module in sides['A'] else 'B'} only"
        for module in sorted(sides["A"].keys() ^ sides["B"].keys())
    ]
    pairs = {
        module: LoraPair(sides["A"][module], up) for module, up in sides["B"].items() if module in sides["A"]
    }
    problems += [problem for module, pair in pairs.items() for problem in _rank_problems(rule, module, pair)]
    problems += _untrained(pairs)
    problems += [f"{ADAPTER_CONFIG_NAME}: {problem}" for problem in rule.conflicts(replaced)]
    if not state:
        problems.append(f"{WEIGHTS_NAME}: holds no tensors")
    if problems:
        raise ManifestMismatchError(problems)
    return LoraWeights(rule=rule, pairs=pairs, replaced=replaced)


def _rank_problems(rule: LoraRule, module: str, pair: LoraPair) -> list[str]:
    if pair.down.dim() == pair.up.dim() == 2 and pair.down.shape[0] == pair.up.shape[1] == rule.rank:
        return []
    shapes = f"{tuple(pair.down.shape)} and {tuple(pair.up.shape)}"
    return [f"{WEIGHTS_NAME}: {module}: A and B are {shapes}, which is not rank {rule.rank}"]


def _untrained(pairs: Mapping[str, LoraPair]) -> list[str]:
    # B starts at zero, so a LoRA whose B are all zero is the untuned base. Judged per tower: a vision tower
    # that never received a gradient is the same mistake, hidden behind a language model that did. Single
    # zero modules pass: a layer may end where it began.
    towers: dict[str, list[LoraPair]] = {}
    for module, pair in pairs.items():
        towers.setdefault(_tower(module), []).append(pair)
    return [
        f"{WEIGHTS_NAME}: every LoRA of the {tower} has B = 0: it was never trained, and changes nothing"
        for tower, members in sorted(towers.items())
        if not any(pair.up.any() for pair in members)
    ]


def _tower(module: str) -> str:
    return "vision tower" if module.startswith("model.visual.") else "language model"


def mismatches(model: nn.Module, weights: LoraWeights) -> list[str]:
    """Hold an adapter's tensors against a model's modules, both ways; one sentence for each difference."""
    rule = weights.rule
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    problems: list[str] = []
    wanted = {name for name in modules if rule.wants_lora(name) and not rule.saves(name)}
    stored = {name for name in parameters if rule.saves(name.rpartition(".")[0])}
    problems += _differences("LoRA", wanted, weights.pairs)
    problems += _differences("tensor", stored, weights.replaced)
    for name in sorted(wanted & weights.pairs.keys()):
        problems += _shape_problems(name, modules[name], weights.pairs[name])
    problems += [
        f"{name} is {tuple(weights.replaced[name].shape)}, the model's is {tuple(parameters[name].shape)}"
        for name in sorted(stored & weights.replaced.keys())
        if weights.replaced[name].shape != parameters[name].shape
    ]
    return problems + _shared(parameters, [*(f"{name}.weight" for name in weights.pairs), *weights.replaced])


def _differences(what: str, wanted: Iterable[str], found: Iterable[str]) -> list[str]:
    missing, unexpected = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    problems = []
    for names, verdict in ((missing, "missing"), (unexpected, "unexpected")):
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            problems.append(
                f"{verdict} {what} for {len(names)} names of this base and configuration: {shown}"
            )
    return problems


def _shape_problems(name: str, module: nn.Module, pair: LoraPair) -> list[str]:
    if not isinstance(module, nn.Linear):
        return [f"{name}: LoRA on {type(module).__name__} is not supported"]
    wanted, found = tuple(module.weight.shape), (pair.up.shape[0], pair.down.shape[1])
    return [] if wanted == found else [f"{name}: the LoRA is for {found}, the model's weight is {wanted}"]


def _shared(parameters: Mapping[str, nn.Parameter], touched: Iterable[str]) -> list[str]:
    names: dict[int, set[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), set()).add(name)
    problems = []
    for name in touched:
        others = names[id(parameters[name])] - {name} if name in parameters else set()
        if others:
            problems.append(f"{name} is the same tensor as {', '.join(sorted(others))}: both would change")
    return problems


class MergedAdapter:
    """An adapter that a base model holds, or is about to hold, merged into its weights; and the way back.

    Merging is W + scale · B·A in float32, rounded once. The way back writes the kept base tensors, bit by
    bit. Subtracting what was added would not: in bfloat16 that drifts by 2.5e-3 within ten rounds.

    Args:
        model: The base that the adapter was trained on, in any number format, on any device.
        weights: From ``load_adapter_weights``.

    Raises:
        ManifestMismatchError: The adapter does not fit the model; nothing was changed. With every reason.
    """

    def __init__(self, model: nn.Module, weights: LoraWeights) -> None:
        problems = mismatches(model, weights)
        if problems:
            raise ManifestMismatchError(problems)
        self._model = model
        self._weights = weights
        self._originals: dict[str, torch.Tensor] = {}
        self._merged = False
        self._lock = threading.Lock()

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that the adapter changes."""
        return (*(f"{module}.weight" for module in self._weights.pairs), *self._weights.replaced)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the model as this adapter made it; one thread at a time.

        Raises:
            RuntimeError: The model does not hold this adapter: not yet, or no longer.
        """
        with self._lock:
            if not self._merged:
                raise RuntimeError("the model does not hold this adapter: another one took its place")
            yield

    def merge(self, *, keep_base: bool = True) -> None:
        """Merge the adapter into the model, in place.

        Args:
            keep_base: Keep a copy of the changed tensors in host memory, so that the base can be restored.

        Raises:
            RuntimeError: The model holds an adapter already.
        """
        claim(self._model)
        with self._lock:
            self._write(keep_base=keep_base)

    def restore(self) -> None:
        """Put the base back.

        Raises:
            RuntimeError: It was put back before, or was not kept.
        """
        with self._lock:
            self._take_out()
            self._originals = {}
        setattr(self._model, _HELD_FLAG, False)

    def give_way(self, successor: MergedAdapter) -> None:
        """Put the base back and merge another adapter, of the same model; waits for the turn to end.

        The copies of base tensors go over to the successor: those that both change are not read again.
        If merging fails, this adapter is merged again, and goes on.

        Raises:
            RuntimeError: The base was not kept, or this adapter is not merged.
            Exception: As merging failed.
        """
        if successor._model is not self._model:
            raise ValueError("the successor is an adapter of another model")
        with self._lock, successor._lock:
            self._take_out()
            successor._originals = self._originals
            try:
                successor._write(keep_base=True)
            except BaseException:
                successor._put_back()
                self._write(keep_base=True)
                raise
            self._originals = {}

    @torch.no_grad()
    def _write(self, *, keep_base: bool) -> None:
        parameters = dict(self._model.named_parameters())
        if keep_base:
            for name in self.changed:
                if name not in self._originals:
                    self._originals[name] = parameters[name].detach().to("cpu", copy=True)
        for module, pair in self._weights.pairs.items():
            parameter = parameters[f"{module}.weight"]
            down, up = (side.to(parameter.device, torch.float32) for side in (pair.down, pair.up))
            parameter.copy_(torch.addmm(parameter.float(), up, down, alpha=self._weights.rule.scale))
        for name, tensor in self._weights.replaced.items():
            parameters[name].copy_(tensor)
        self._merged = True

    def _take_out(self) -> None:
        if not self._merged or not self._originals:
            raise RuntimeError("the base was restored already, or not kept")
        self._merged = False
        self._put_back()

    @torch.no_grad()
    def _put_back(self) -> None:
        parameters = dict(self._model.named_parameters())
        for name, tensor in self._originals.items():
            parameters[name].copy_(tensor)


def merge_adapter(model: nn.Module, weights: LoraWeights, *, keep_base: bool = True) -> MergedAdapter:
    """Merge an adapter into a base model, in place; see ``MergedAdapter``.

    Args:
        model: The base that the adapter was trained on, in any number format, on any device.
        weights: From ``load_adapter_weights``.
        keep_base: Keep a copy of the changed tensors in host memory, so that the base can be restored.

    Returns:
        The way back, where the base was kept.

    Raises:
        ManifestMismatchError: The adapter does not fit the model; nothing was changed. With every reason.
        RuntimeError: The model holds an adapter already.
    """
    merged = MergedAdapter(model, weights)
    merged.merge(keep_base=keep_base)
    return merged


def claim(model: nn.Module) -> None:
    """Mark a base model as holding an adapter.

    Raises:
        RuntimeError: It holds one already.
    """
    if getattr(model, _HELD_FLAG, False):
        raise RuntimeError("this model holds an adapter already: restore the base first")
    setattr(model, _HELD_FLAG, True)
