"""The training loop: transformers' Trainer with a loss of our own."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import Dataset, Subset
from transformers import (
    PrinterCallback,
    Qwen2VLForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from schemas.errors import ConfigurationError
from training.answer_loss import TOKENS_ALONE, answer_outputs, loss_totals, outputs_loss
from training.bucketing import is_bucketed, like_lengths_together, padding_share
from training.config import StageConfig
from training.curves import LOSS, NCM, VALIDATION, Points
from training.data import Collator, ConversationDataset, Conversed
from training.monitor import BestWeights, best_validation, curves_of, is_exhausted
from training.ncm import means
from training.optimiser import build_optimiser
from training.score_losses import ScoreObjective
from training.watching import LOSS_ALONE, KeepBest, TensorBoardLog, Watch

_LOG = logging.getLogger(__name__)

_LOG_EVERY_STEPS = 50
_CHECKPOINTS_KEPT = 2
"""One may be half written when the process is killed."""
_BEST_NAME = "best"


class AnswerTrainer(Trainer):
    """Trainer with our loss, and with our validation in place of its own."""

    control: Any

    def __init__(
        self, objective: ScoreObjective = TOKENS_ALONE, watch: Watch = LOSS_ALONE, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._objective, self._watch = objective, watch
        # The losses of micro-batches add up to the step's: Trainer must not divide them by their number.
        self.model_accepts_loss_kwargs = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """Collect a step's micro-batches, and what its means are taken over in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.accelerator.reduce(loss_totals(batches).to(device), "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """See ``training.answer_loss``; ``Trainer`` calls this once a micro-batch."""
        outputs = answer_outputs(model, inputs, self._objective)
        if self._watch.ncm is not None:
            self._watch.ncm.add(outputs.logits, inputs["labels"], inputs["score_columns"])
        loss = outputs_loss(outputs, inputs, self._objective, totals=num_items_in_batch)
        # Gradients are averaged over processes, of which each has a part of the sum.
        return loss * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the step's NCM beside its loss, over all processes."""
        if self._watch.ncm is not None and LOSS in logs:
            logs |= means(self.accelerator.reduce(self._watch.ncm.take_totals(), "sum"))
        super().log(logs, start_time)

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Measure the weights as they are on the validation images; every process takes its share."""
        assert self._watch.validator is not None  # else Trainer does not ask
        metrics = {VALIDATION: self._watch.validator.measure()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Progress(TrainerCallback):
    """Logs loss, NCM, speed and the time that is left."""

    def __init__(self, title: str, batch_size: int) -> None:
        self._title, self._batch_size = title, batch_size
        self._start, self._first_step = 0.0, 0
        self._logged: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or LOSS not in logs:
            return
        self._logged.append(logs)
        if state.global_step % _LOG_EVERY_STEPS and state.global_step < state.max_steps:
            return
        done = max(state.global_step - self._first_step, 1)
        seconds_a_step = (time.monotonic() - self._start) / done
        _LOG.info(
            "%s: step %d of %d, %s, %.1f conversations/s, %.1f min left",
            self._title,
            state.global_step,
            state.max_steps,
            ", ".join(f"{word} {value:.3f}" for word, value in self._means()),
            self._batch_size / seconds_a_step,
            seconds_a_step * (state.max_steps - state.global_step) / 60,
        )
        self._logged.clear()

    def _means(self) -> Iterator[tuple[str, float]]:
        for word, name in (("loss", LOSS), ("NCM", NCM)):
            values = [logs[name] for logs in self._logged if name in logs]
            if values:
                yield word, sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run says of itself.

    Attributes:
        curves: (step, value) by name (``training.curves.CURVES``) over the whole run, resumed or not.
        best_step: Step of the weights that the model now has, where validation chose them; else they are
            those of the last step, and this is None.
        stopped_early: Whether validation ended the run before its last step.
        resumed_from: Step that this process started from.
        seconds: Of this process.
    """

    curves: Mapping[str, Points]
    best_step: int | None
    stopped_early: bool
    resumed_from: int
    seconds: float


def train(
    model: Qwen2VLForConditionalGeneration | PeftModel,
    dataset: ConversationDataset,
    collator: Collator,
    config: StageConfig,
    work: Path,
    *,
    objective: ScoreObjective = TOKENS_ALONE,
    watch: Watch = LOSS_ALONE,
    keep_checkpoints: bool = False,
    device: str = "auto",
) -> Trained:
    """Train ``model`` in place.

    Args:
        model: Its trainable weights change; with a validator they end as those that did best, which the first
            of several processes has.
        dataset: Conversations; all of them are drawn once.
        collator: Makes batches.
        config: Batch size and optimiser.
        work: Folder for the Trainer's own files.
        objective: How scores are taught.
        watch: What is measured meanwhile.
        keep_checkpoints: Write the state there every now and then, and go on from the last one that is there.
        device: ``auto`` or ``cpu``; ``auto`` is every GPU that the launcher gives this process.
    """
    # Activations of tiny models underflow to denormal numbers, which a CPU computes four times slower.
    torch.set_flush_denormal(True)
    best = BestWeights(work / _BEST_NAME)
    trainer = AnswerTrainer(
        objective,
        watch,
        model=model,
        args=_arguments(config, work, len(dataset), keep_checkpoints=keep_checkpoints, device=device),
        train_dataset=_drawn(dataset, config),
        eval_dataset=watch.validator and watch.validator.images,
        data_collator=collator,
        optimizers=(build_optimiser(model, config), None),
        callbacks=_callbacks(model, config, work, watch, best),
    )
    # It prints dictionaries; ours says the same in words.
    trainer.remove_callback(PrinterCallback)
    last = last_checkpoint(work) if keep_checkpoints else None
    if last is not None:
        _LOG.info("%s: goes on from step %d", config.stage, _step_of(last))
    started = time.monotonic()
    history = _history(last)
    # Killed after it had ended early, it must not go on.
    if not is_exhausted(history, config.stop_after):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        history = trainer.state.log_history
    chosen = best_validation(history)
    if chosen is not None and trainer.is_world_process_zero():
        best.load(model, chosen.step)
    curves = curves_of(history)
    return Trained(
        curves=curves,
        best_step=None if chosen is None else chosen.step,
        stopped_early=curves[LOSS][-1][0] < trainer.args.max_steps,
        resumed_from=_step_of(last) if last else 0,
        seconds=time.monotonic() - started,
    )


def _drawn(dataset: ConversationDataset, config: StageConfig) -> Dataset[Conversed]:
    """The conversations in the order in which they are drawn."""
    if not is_bucketed(config):
        return dataset
    assert config.micro_batch_size is not None  # else there would be nothing to sort
    lengths = dataset.lengths()
    order = like_lengths_together(lengths, config.batch_size)
    _LOG.info(
        "%s: like lengths together: %.1f %% of the tokens are padding, not %.1f %%",
        config.stage,
        100 * padding_share([lengths[index] for index in order], config.micro_batch_size),
        100 * padding_share(lengths, config.micro_batch_size),
    )
    return Subset(dataset, order)


def _callbacks(
    model: nn.Module, config: StageConfig, work: Path, watch: Watch, best: BestWeights
) -> list[TrainerCallback]:
    found: list[TrainerCallback] = [_Progress(config.stage, config.batch_size)]
    if watch.validator is not None:
        found.append(KeepBest(model, best, config.stop_after, lambda: map(_step_of, _checkpoints(work))))
    if watch.tensorboard is not None:
        found.append(TensorBoardLog(watch.tensorboard))
    return found


def _arguments(
    config: StageConfig, work: Path, conversations: int, *, keep_checkpoints: bool, device: str
) -> TrainingArguments:
    steps = conversations // config.batch_size
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share = config.batch_size // processes
    micro = min(config.micro_batch_size or share, share)
    if share * processes != config.batch_size or share % micro:
        raise ConfigurationError(
            f"batch_size {config.batch_size} is not {processes} processes times a multiple of {micro}"
        )
    use_cpu = device == "cpu" or not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        train_sampling_strategy="sequential",  # the plan is shuffled, and bucketing relies on its order
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        use_cpu=use_cpu,
        ddp_backend="gloo" if use_cpu and processes > 1 else None,
        # Every weight is used by every batch; and looking for others, DDP would not find a score head's.
        ddp_find_unused_parameters=False,
        bf16=config.precision == "bfloat16",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=1,
        eval_strategy="steps" if config.validate_every else "no",
        eval_steps=config.validate_every,
        save_strategy="steps" if keep_checkpoints else "no",
        save_steps=config.checkpoint_every,
        save_total_limit=_CHECKPOINTS_KEPT,
        report_to=[],
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        # Trainer would split batches by their rows among all that this process sees, and patches have none.
        _LOG.warning(
            "%d GPUs are here, and one is used; start one process each: torchrun --nproc-per-node %d -m …",
            arguments.n_gpu,
            arguments.n_gpu,
        )
        arguments._n_gpu = 1
    return arguments


def last_checkpoint(work: Path) -> Path | None:
    """The latest complete checkpoint; what a killed process left half written is passed over."""
    return max(filter(_is_complete, _checkpoints(work)), key=_step_of, default=None)


def _checkpoints(work: Path) -> list[Path]:
    return list(work.glob("checkpoint-*"))


def _history(checkpoint: Path | None) -> list[dict[str, Any]]:
    """What was logged up to a checkpoint."""
    if checkpoint is None:
        return []
    return list(TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).log_history)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_complete(checkpoint: Path) -> bool:
    # Trainer writes this file after all others.
    try:
        return bool(json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
