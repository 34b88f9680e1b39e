"""The training loop: transformers' Trainer with a loss of our own.

Logits are computed at answer positions only: batches are padded on the left, and ``logits_to_keep`` asks
for the last columns. At the vocabulary of Qwen2-VL (152 k) all positions would cost 0.2-0.7 GB a sample.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers import (
    PrinterCallback,
    Qwen2VLForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from schemas.errors import ConfigurationError
from training.config import StageConfig
from training.data import Collator, ConversationDataset
from training.optimiser import build_optimiser

_LOG = logging.getLogger(__name__)

_LOG_EVERY_STEPS = 50
_CHECKPOINTS_KEPT = 2
"""One may be half written when the process is killed."""


def answer_loss(
    model: nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Weighted mean cross-entropy of the answer tokens.

    Args:
        model: A Qwen2-VL, with or without adapter.
        batch: From ``Collator``.
        dtype: Of the softmax; half precision would lose small probabilities.
    """
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
    labels, weights = batch["labels"], batch["weights"]
    # One column more: the token before an answer predicts the answer's first token.
    logits = model(**inputs, logits_to_keep=labels.shape[1] + 1, use_cache=False).logits[:, :-1]
    wanted = weights > 0
    losses = functional.cross_entropy(logits[wanted].to(dtype), labels[wanted], reduction="none")
    return (losses * weights[wanted]).sum() / weights[wanted].sum()


class AnswerTrainer(Trainer):
    """Trainer with ``answer_loss``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Qwen2-VL takes the keyword by which Trainer hands over a count of tokens. Our loss does not use it,
        # and without this Trainer would add up the losses of accumulated micro-batches, not average them.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """See ``answer_loss``; ``Trainer`` calls this once a step."""
        return answer_loss(model, inputs)


class _Progress(TrainerCallback):
    """Logs loss, speed and the time that is left."""

    def __init__(self, title: str, batch_size: int) -> None:
        self._title, self._batch_size = title, batch_size
        self._start, self._first_step = 0.0, 0
        self._losses: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self._losses.append(float(logs["loss"]))
        if state.global_step % _LOG_EVERY_STEPS and state.global_step < state.max_steps:
            return
        done = max(state.global_step - self._first_step, 1)
        seconds_a_step = (time.monotonic() - self._start) / done
        _LOG.info(
            "%s: step %d of %d, loss %.3f, %.1f conversations/s, %.1f min left",
            self._title,
            state.global_step,
            state.max_steps,
            sum(self._losses) / len(self._losses),
            self._batch_size / seconds_a_step,
            seconds_a_step * (state.max_steps - state.global_step) / 60,
        )
        self._losses.clear()


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run says of itself.

    Attributes:
        losses: (step, loss) of every step of the whole run, resumed or not.
        resumed_from: Step that this process started from.
        seconds: Of this process.
    """

    losses: tuple[tuple[int, float], ...]
    resumed_from: int
    seconds: float


def train(
    model: Qwen2VLForConditionalGeneration | PeftModel,
    dataset: ConversationDataset,
    collator: Collator,
    config: StageConfig,
    work: Path,
    *,
    keep_checkpoints: bool = False,
    device: str = "auto",
) -> Trained:
    """Train ``model`` in place.

    Args:
        model: Its trainable weights change.
        dataset: Conversations; all of them are drawn once.
        collator: Makes batches.
        config: Batch size and optimiser.
        work: Folder for the Trainer's own files.
        keep_checkpoints: Write the state there every now and then, and go on from the last one that is there.
        device: ``auto`` or ``cpu``; ``auto`` is every GPU that the launcher gives this process.
    """
    # Activations of tiny models underflow to denormal numbers, which a CPU computes four times slower.
    torch.set_flush_denormal(True)
    arguments = _arguments(config, work, len(dataset), keep_checkpoints=keep_checkpoints, device=device)
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        optimizers=(build_optimiser(model, config), None),
        callbacks=[_Progress(config.stage, config.batch_size)],
    )
    # It prints dictionaries; ours says the same in words.
    trainer.remove_callback(PrinterCallback)
    last = last_checkpoint(work) if keep_checkpoints else None
    if last is not None:
        _LOG.info("%s: goes on from step %d", config.stage, _step_of(last))
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    losses = [(line["step"], line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return Trained(tuple(losses), _step_of(last) if last else 0, time.monotonic() - started)


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
    return TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        use_cpu=use_cpu,
        ddp_backend="gloo" if use_cpu and processes > 1 else None,
        bf16=config.precision == "bfloat16",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=1,
        save_strategy="steps" if keep_checkpoints else "no",
        save_steps=config.checkpoint_every,
        save_total_limit=_CHECKPOINTS_KEPT,
        report_to=[],
        disable_tqdm=True,
    )


def last_checkpoint(work: Path) -> Path | None:
    """The latest complete checkpoint; what a killed process left half written is passed over."""
    complete = [folder for folder in work.glob("checkpoint-*") if _is_complete(folder)]
    return max(complete, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_complete(checkpoint: Path) -> bool:
    # Trainer writes this file after all others.
    try:
        return bool(json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
