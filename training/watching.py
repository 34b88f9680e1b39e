"""What looks on while a model is trained, and how it is told to the Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from schemas.errors import ConfigurationError
from training.curves import VALIDATION
from training.monitor import BestWeights, best_validation, is_exhausted
from training.ncm import NcmMeter
from training.optional_modules import optional_module
from training.validator import Validator

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """What is measured of a run while it goes on, beside its loss.

    Attributes:
        ncm: Meter of scores in digits; None where they are not written in digits.
        validator: Measures every ``validate_every`` steps; None = never.
        tensorboard: Folder for TensorBoard's events of this run; None = none are written.
    """

    ncm: NcmMeter | None = None
    validator: Validator | None = None
    tensorboard: Path | None = None


LOSS_ALONE = Watch()
"""Nothing is measured beside the loss."""


class KeepBest(TrainerCallback):
    """Keeps the weights of the best validation, and ends the run when none gets better.

    Args:
        model: Its trainable weights are kept.
        weights: Where.
        stop_after: Validations in a row without a new best that end the run; None = it is not ended.
        resumable: Steps that the run could go on from, at the time of asking.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: BestWeights,
        stop_after: int | None,
        resumable: Callable[[], Iterable[int]],
    ) -> None:
        self._model, self._weights = model, weights
        self._stop_after, self._resumable = stop_after, resumable

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer after a validation."""
        history = state.log_history
        best = best_validation(history)
        assert best is not None  # there was one just now
        _LOG.info(
            "step %d: validation SRCC %.4f, best %.4f at step %d",
            state.global_step,
            history[-1][VALIDATION],
            best.value,
            best.step,
        )
        if best.step == state.global_step and state.is_world_process_zero:
            earlier = (best_validation(history, until=step) for step in self._resumable())
            self._weights.save(self._model, best.step, {one.step for one in earlier if one is not None})
        if is_exhausted(history, self._stop_after):
            _LOG.info("step %d: stops early, nothing better since step %d", state.global_step, best.step)
            control.should_training_stop = True


class TensorBoardLog(TrainerCallback):
    """Writes every figure of the log for TensorBoard, from the first process.

    Args:
        folder: Of this run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer before the first step."""
        if state.is_world_process_zero:
            # What a killed process wrote beyond its last checkpoint comes again.
            self._writer = summary_writer()(str(self._folder), purge_step=state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Called by Trainer with the figures of a step."""
        if self._writer is None:
            return
        for name, value in (logs or {}).items():
            self._writer.add_scalar(name, value, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer after the last step."""
        if self._writer is not None:
            self._writer.close()


def summary_writer() -> Any:
    """Torch's writer of TensorBoard events.

    Raises:
        ConfigurationError: TensorBoard is not installed.
    """
    optional_module("tensorboard", "realqa-beam[tensorboard]", "--tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def check_tensorboard(folder: Path) -> None:
    """Find out before anything expensive whether events can be written.

    Raises:
        ConfigurationError: TensorBoard is not installed, or the folder is a file.
    """
    summary_writer()
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"--tensorboard: {folder} is no folder")
