"""What a model says in place of an answer, and the loss of it.

Logits are computed at answer positions only: batches are padded on the left, and ``logits_to_keep`` asks
for the last columns. At the vocabulary of Qwen2-VL (152 k) all positions would cost 0.2-0.7 GB a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from model.adapters import SCORE_HEAD_MODULE
from schemas.manifest import ScoreScale
from training.config import ScoreLoss
from training.score_losses import ScoreObjective, score_loss

TOKENS_ALONE = ScoreObjective(ScoreScale(), ScoreLoss())
"""Nothing beside the cross-entropy of tokens."""
_TARGETS = ("labels", "weights", "score_columns", "scores", "score_stds")

Batch = Mapping[str, torch.Tensor]
"""From ``training.data.Collator``."""


@dataclass(frozen=True, slots=True)
class AnswerOutputs:
    """Of one teacher-forced forward pass.

    Attributes:
        logits: (batch, longest answer, vocabulary): column i is what was said for ``labels[:, i]``.
        scores: (answers with a score, outputs) of the score head, or log-probabilities of the levels among
            all tokens; None where scores are digits or hard levels, and where no answer has one.
    """

    logits: torch.Tensor
    scores: torch.Tensor | None


def answer_outputs(
    model: nn.Module,
    batch: Batch,
    objective: ScoreObjective = TOKENS_ALONE,
    dtype: torch.dtype = torch.float32,
) -> AnswerOutputs:
    """Run the model over a batch.

    Args:
        model: A Qwen2-VL, with or without adapter.
        batch: Inputs and labels.
        objective: How scores are taught.
        dtype: Of the head's arithmetic; half precision would lose small differences.
    """
    inputs = {name: value for name, value in batch.items() if name not in _TARGETS}
    # One column more: the token before an answer predicts the answer's first token. Named one by one: a slice
    # of columns does not lie together in memory, and a CPU then copies the whole output head.
    ids = batch["input_ids"]
    columns = torch.arange(ids.shape[1] - batch["labels"].shape[1] - 1, ids.shape[1], device=ids.device)
    with _kept_hidden(model) as kept:
        logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits[:, :-1]
    rows = batch["score_columns"] >= 0
    if not objective.is_extra or not bool(rows.any()):
        return AnswerOutputs(logits, None)
    score_columns = batch["score_columns"][rows]
    if objective.reads_hidden:
        head = _one_module(model, SCORE_HEAD_MODULE)
        return AnswerOutputs(logits, head(kept[0][:, :-1][rows, score_columns].to(dtype)))
    said = logits[rows, score_columns].to(dtype).log_softmax(1)
    return AnswerOutputs(logits, said[:, list(objective.level_tokens)])


def loss_totals(batches: Iterable[Batch]) -> torch.Tensor:
    """What the means of a step are taken over, (2,): weights of its tokens, and answers with a score."""
    none = torch.zeros(2)
    counts = [torch.stack([b["weights"].sum(), (b["score_columns"] >= 0).sum().float()]) for b in batches]
    return torch.stack(counts).sum(0) if counts else none


def outputs_loss(
    outputs: AnswerOutputs,
    batch: Batch,
    objective: ScoreObjective = TOKENS_ALONE,
    dtype: torch.dtype = torch.float32,
    totals: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted mean cross-entropy of the answer tokens, and the score head's loss where there is one.

    Args:
        outputs: From ``answer_outputs``.
        batch: The same.
        objective: The same.
        dtype: Of the softmax; half precision would lose small probabilities.
        totals: ``loss_totals`` of the whole step that this is a part of: the losses of all parts add up to
            that of the step. None = the batch is the step.
    """
    tokens, answers = (loss_totals([batch]) if totals is None else totals).to(dtype)
    labels, weights = batch["labels"], batch["weights"]
    wanted = weights > 0
    losses = functional.cross_entropy(outputs.logits[wanted].to(dtype), labels[wanted], reduction="none")
    loss = (losses * weights[wanted]).sum() / tokens.clamp_min(torch.finfo(dtype).tiny)
    if outputs.scores is None:
        return loss
    rows = batch["score_columns"] >= 0
    truth = (batch["scores"][rows].to(dtype), batch["score_stds"][rows].to(dtype))
    taught = score_loss(outputs.scores, *truth, objective.scale, objective.settings)
    return loss + objective.settings.weight * taught * len(outputs.scores) / answers


def answer_loss(
    model: nn.Module,
    batch: Batch,
    dtype: torch.dtype = torch.float32,
    objective: ScoreObjective = TOKENS_ALONE,
) -> torch.Tensor:
    """``outputs_loss`` of ``answer_outputs``."""
    return outputs_loss(answer_outputs(model, batch, objective, dtype), batch, objective, dtype)


@contextmanager
def _kept_hidden(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What the output head is given in a forward pass: the last hidden states at the kept positions."""
    head = _one_module(model, "lm_head")
    kept: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    try:
        yield kept
    finally:
        handle.remove()


def _one_module(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, however many wrappers (DDP, PEFT) are around the model."""
    return next(module for path, module in model.named_modules() if path.rpartition(".")[2] == name)
