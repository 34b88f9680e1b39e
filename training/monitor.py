"""What a run's log says about it: its curves, its best validation, whether it should end.

All of it is worked out from the log alone, which stands in every checkpoint: a run that was killed and goes
on decides what it would have decided.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training.curves import CURVES, VALIDATION, Points

_Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Best:
    """The best validation so far.

    Attributes:
        step: When it was measured; the earliest of equal ones.
        value: What was measured; higher is better.
        stale: Validations since.
    """

    step: int
    value: float
    stale: int


def curves_of(history: Sequence[_Line]) -> dict[str, Points]:
    """The curves of a Trainer's log that have any points, each as (step, value) in order."""
    found = {name: tuple((line["step"], line[name]) for line in history if name in line) for name in CURVES}
    return {name: points for name, points in found.items() if points}


def best_validation(history: Sequence[_Line], until: int | None = None) -> Best | None:
    """Find the best validation of a Trainer's log, up to a step; None if there was none."""
    points = [point for point in curves_of(history).get(VALIDATION, ()) if until is None or point[0] <= until]
    if not points:
        return None
    index = max(range(len(points)), key=lambda i: points[i][1])
    return Best(*points[index], stale=len(points) - 1 - index)


def is_exhausted(history: Sequence[_Line], stop_after: int | None) -> bool:
    """Whether as many validations as ``stop_after`` have passed without a new best."""
    best = best_validation(history)
    return best is not None and stop_after is not None and best.stale >= stop_after


class BestWeights:
    """The trainable weights of the best validations, in files that survive a kill.

    Args:
        folder: Where; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, model: nn.Module, step: int, needed: Iterable[int]) -> None:
        """Write the weights of a step; whole or not at all.

        Args:
            model: Its trainable weights are written.
            step: Names them.
            needed: Steps whose weights a resumed run may still want; all others are deleted.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {name: weight.detach().cpu().contiguous() for name, weight in _trainable(model)}
        unfinished = self._folder / "unfinished"
        save_file(state, unfinished)
        os.replace(unfinished, self._file(step))
        kept = {self._file(one) for one in (*needed, step)}
        for file in set(self._folder.iterdir()) - kept:
            file.unlink()

    def load(self, model: nn.Module, step: int) -> None:
        """Put the weights of a step back into the model."""
        state = load_file(self._file(step))
        with torch.no_grad():
            for name, weight in _trainable(model):
                weight.copy_(state[name])

    def _file(self, step: int) -> Path:
        return self._folder / f"step-{step}.safetensors"


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
