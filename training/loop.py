"""The training loop: transformers' Trainer with a loss of our own.

Logits are computed at answer positions only: batches are padded on the left, and ``logits_to_keep`` asks
for the last columns. At the vocabulary of Qwen2-VL (152 k) all positions would cost 0.2-0.7 GB a sample.
"""

from __future__ import annotations

import logging
import time
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

from training.config import StageConfig
from training.data import Collator, ConversationDataset
from training.optimiser import build_optimiser

_LOG = logging.getLogger(__name__)

_LOG_EVERY_STEPS = 50


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

    def __init__(self, title: str) -> None:
        self._title = title
        self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        passed_s = time.monotonic() - self._start
        left_s = passed_s / max(state.global_step, 1) * (state.max_steps - state.global_step)
        _LOG.info(
            "%s: step %d of %d, loss %.3f, %.1f conversations/s, %.1f min left",
            self._title,
            state.global_step,
            state.max_steps,
            float(logs["loss"]),
            state.global_step * args.per_device_train_batch_size / passed_s,
            left_s / 60,
        )


def train(
    model: Qwen2VLForConditionalGeneration | PeftModel,
    dataset: ConversationDataset,
    collator: Collator,
    config: StageConfig,
    work: Path,
) -> float:
    """Train ``model`` in place.

    Args:
        model: Its trainable weights change.
        dataset: Conversations; ``config.steps`` batches are drawn.
        collator: Makes batches.
        config: Steps, batch size and optimiser.
        work: Folder for the Trainer's own files.

    Returns:
        Mean loss over the run.
    """
    # Activations of tiny models underflow to denormal numbers, which a CPU computes four times slower.
    torch.set_flush_denormal(True)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=min(_LOG_EVERY_STEPS, config.steps),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        optimizers=(build_optimiser(model, config), None),
        callbacks=[_Progress(config.stage)],
    )
    # It prints dictionaries; ours says the same in words.
    trainer.remove_callback(PrinterCallback)
    return float(trainer.train().training_loss)
