"""What is plotted of a training run: figures over steps, as its summary (``training.json``) holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import ConfigurationError

SUMMARY_NAME = "training.json"

LOSS = "loss"
NCM = "ncm"
NCM_STAR_PRINTED = "ncm_star_printed"
NCM_STAR_RENORMALISED = "ncm_star_renormalised"
VALIDATION = "validation_srcc"

NCM_NAMES = (NCM, NCM_STAR_PRINTED, NCM_STAR_RENORMALISED)
CURVES = (LOSS, *NCM_NAMES, VALIDATION)
"""All that a run may have; the NCM only of scores in digits, the last only with ``validate_every``."""

Points = Sequence[tuple[int, float]]


class CurvePoint(BaseModel):
    """A figure at a step."""

    model_config = ConfigDict(frozen=True)

    step: int
    value: float


class TrainingSummary(BaseModel):
    """The part of ``training.json`` that is plotted; the rest of it is passed over.

    Attributes:
        name: Of the run.
        curves: Points by name (``CURVES``), in order of step.
        best_step: Step of the weights that were kept, where validation chose them.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    curves: dict[str, list[CurvePoint]]
    best_step: int | None = None


@dataclass(frozen=True, slots=True)
class RunCurves:
    """The curves of one run.

    Attributes:
        name: For the legend.
        curves: (step, value) by name.
        best_step: Step of the weights that were kept, where validation chose them.
    """

    name: str
    curves: dict[str, Points]
    best_step: int | None


def points_of(curve: Points) -> list[dict[str, Any]]:
    """A curve as JSON holds it."""
    return [CurvePoint(step=step, value=value).model_dump() for step, value in curve]


def read_runs(paths: Sequence[Path]) -> list[RunCurves]:
    """Read the curves of runs; runs of one name are told apart by their folders.

    Args:
        paths: Folders that training wrote, or the ``training.json`` in them.

    Raises:
        ConfigurationError: Some are not there, or hold no curves: all of them are named.
    """
    problems: list[str] = []
    found: list[TrainingSummary] = []
    for path in paths:
        file = path / SUMMARY_NAME if path.is_dir() else path
        try:
            found.append(TrainingSummary.model_validate_json(file.read_bytes()))
        except OSError as error:
            problems.append(f"{file}: {error.strerror}")
        except ValidationError:
            problems.append(f"{file}: holds no curves of a training run")
    if problems:
        raise ConfigurationError(problems)
    names = [one.name for one in found]
    return [
        RunCurves(
            name=one.name if names.count(one.name) == 1 else f"{one.name} ({path})",
            curves={
                name: [(point.step, point.value) for point in points] for name, points in one.curves.items()
            },
            best_step=one.best_step,
        )
        for path, one in zip(paths, found, strict=True)
    ]
