"""What teaches a score head: losses beside the cross-entropy of an answer's tokens.

Digits and hard levels are tokens like others and need nothing here. Everything is in points of 0–10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from model.score_heads import is_number
from model.scores import class_values
from model.slots import ChoiceSlot
from schemas.errors import ConfigurationError
from schemas.manifest import READOUT_HEADS, ScoreScale
from training.config import ScoreLoss

_LEAST_STD = 1e-3
_LEAST_PROBABILITY = 1e-8
_LEAST_DETERMINANT = 1e-4
_LEAST_SPREAD, _MOST_SHIFT = 0.2, 0.1
"""Of the distance between classes; DeQA-Score's."""


@dataclass(frozen=True, slots=True)
class ScoreObjective:
    """How one stage teaches its scores.

    Attributes:
        scale: Head, and what its classes stand for.
        settings: Weights and choices.
        level_tokens: First token of every level word, of heads that learn a distribution over them.
    """

    scale: ScoreScale
    settings: ScoreLoss
    level_tokens: tuple[int, ...] = ()

    @property
    def is_extra(self) -> bool:
        """Whether there is anything to add to the cross-entropy of tokens."""
        return self.reads_hidden or self.scale.head == "soft_levels"

    @property
    def reads_hidden(self) -> bool:
        """Whether a head reads the last hidden state."""
        return self.scale.head in READOUT_HEADS


def level_tokens(slot: ChoiceSlot) -> tuple[int, ...]:
    """The first token of every level, by which a distribution over levels is learnt.

    Raises:
        ConfigurationError: Two levels begin with the same token.
    """
    if len(slot.trie.children[0]) < len(slot.values):
        raise ConfigurationError(
            f"score.level_words: {', '.join(slot.values)}: in this tokeniser some begin with the same token, "
            "and soft levels are learnt by first tokens"
        )
    return tuple(slot.trie.token[slot.trie.path(value)[0]] for value in range(len(slot.values)))


def score_loss(
    outputs: torch.Tensor, score: torch.Tensor, std: torch.Tensor, scale: ScoreScale, settings: ScoreLoss
) -> torch.Tensor:
    """Mean loss of a batch's scores.

    Args:
        outputs: (batch, bins) logits; or (batch, levels) log-probabilities among all tokens; or (batch, 1)
            score divided by 10.
        score: (batch,) labels.
        std: (batch,) standard deviations of the labels; NaN where not known.
        scale: Of the head.
        settings: Of the loss.
    """
    if is_number(scale):
        return functional.mse_loss(outputs[:, 0] * 10, score)
    values = torch.tensor(class_values(scale), dtype=outputs.dtype, device=outputs.device)
    closed = outputs.log_softmax(1)
    assumed = settings.assumed_std if settings.assumed_std is not None else 0.0
    known = torch.where(std.isnan(), torch.full_like(std, assumed), std)
    if scale.head == "bins" and not settings.soft_bins:
        nearest = (values[None] - score[:, None]).abs().argmin(1)
        loss = functional.nll_loss(closed, nearest)
    else:
        # Words are learnt against all tokens: among themselves alone they would never come to be written.
        said = outputs if scale.head == "soft_levels" else closed
        wanted = soft_targets(score, known, values, keep_mean=scale.head == "soft_levels")
        loss = functional.kl_div(said, wanted, reduction="batchmean")
    if settings.fidelity:
        loss = loss + settings.fidelity * fidelity_loss(closed.exp(), score, known, values)
    return loss


def soft_targets(
    score: torch.Tensor, std: torch.Tensor, values: torch.Tensor, *, keep_mean: bool
) -> torch.Tensor:
    """Distribution over classes that has a label's mean, and about its deviation.

    The Gaussian's mass over every class's interval, then p' = αp + β so that the mean is kept, what is
    negative put to zero (DeQA-Score, arXiv 2501.11599, section 3.2). Where the deviation is below a fifth of
    the distance of classes, the label is put between the two classes next to it; with ``keep_mean`` also
    where the mean is then off by a tenth of that distance, as at the ends of the range.

    Args:
        score: (batch,) means.
        std: (batch,) deviations; 0 = not known.
        values: (classes,) equally spaced, rising.
        keep_mean: Whether the mean matters more than the shape, as for few classes that reach from end to
            end. Many bins have none beyond the ends: there the mean gives way.

    Returns:
        (batch, classes), rows sum up to 1; the mean is kept where it lies between the outer classes.
    """
    between = _between_neighbours(score, values)
    half = (values[1] - values[0]) / 2
    deviation = std.clamp_min(_LEAST_STD)[:, None]
    upper = torch.special.ndtr((values + half - score[:, None]) / deviation)
    lower = torch.special.ndtr((values - half - score[:, None]) / deviation)
    mass = upper - lower
    total, mean = mass.sum(1), mass @ values
    count, sum_of_values = len(values), values.sum()
    # α · total + β · count = 1 and α · mean + β · Σ values = score
    determinant = total * sum_of_values - mean * count
    usable = determinant.abs() > _LEAST_DETERMINANT * sum_of_values
    safe = torch.where(usable, determinant, torch.ones_like(determinant))
    alpha = (sum_of_values - score * count) / safe
    beta = (total * score - mean) / safe
    shifted = alpha[:, None] * mass + beta[:, None]
    # At the middle of the range the two equations are one: then the mass itself, evened out, has that mean.
    shifted = torch.where(usable[:, None], shifted, mass / total.clamp_min(_LEAST_PROBABILITY)[:, None])
    adjusted = shifted.clamp_min(0)
    adjusted = adjusted / adjusted.sum(1, keepdim=True)
    step = values[1] - values[0]
    fine = std >= _LEAST_SPREAD * step
    if keep_mean:
        fine = fine & ((adjusted @ values - score).abs() <= _MOST_SHIFT * step)
    return torch.where(fine[:, None], adjusted, between)


def _between_neighbours(score: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    place = ((score - values[0]) / (values[1] - values[0])).clamp(0, len(values) - 1)
    classes = torch.arange(len(values), dtype=values.dtype, device=values.device)
    return (1 - (place[:, None] - classes).abs()).clamp_min(0)


def fidelity_loss(
    probabilities: torch.Tensor, score: torch.Tensor, std: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """How badly pairs of a batch are ranked: mean of 1 − √(p·p̂) − √((1−p)(1−p̂)) over all pairs.

    p = Φ((μ₁ − μ₂) / √(σ₁² + σ₂²)) that the first is better, by the labels and by the prediction (DeQA-Score,
    section 3.3; the loss: Tsai et al., FRank, SIGIR 2007). 0 with fewer than two images. Pairs are made of
    whatever is in the batch: opinions of several data sets are compared as if they were of one.

    Args:
        probabilities: (batch, classes) predicted.
        score: (batch,) labels.
        std: (batch,) of the labels; 0 = not known: the better label is better for sure.
        values: (classes,).
    """
    first, second = torch.triu_indices(len(score), len(score), offset=1, device=score.device)
    if len(first) == 0:
        return probabilities.sum() * 0
    mean = probabilities @ values
    variance = (probabilities * (values - mean[:, None]) ** 2).sum(1)
    said = _better(mean, variance, first, second)
    true = _better(score, std**2, first, second)
    both = ((true * said).clamp_min(_LEAST_PROBABILITY)).sqrt()
    neither = (((1 - true) * (1 - said)).clamp_min(_LEAST_PROBABILITY)).sqrt()
    return (1 - both - neither).mean()


def _better(
    mean: torch.Tensor, variance: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    spread = (variance[first] + variance[second]).clamp_min(_LEAST_STD**2).sqrt()
    return torch.special.ndtr((mean[first] - mean[second]) / spread)


def missing_deviations(deviations: Sequence[float | None], objective: ScoreObjective) -> list[str]:
    """Say what labels lack for soft targets; nothing where a deviation is assumed."""
    soft = objective.scale.head == "bins" and objective.settings.soft_bins
    unknown = sum(deviation is None for deviation in deviations)
    if not soft or not unknown or objective.settings.assumed_std is not None:
        return []
    return [
        f"score_loss.soft_bins: {unknown} of {len(deviations)} labels have no mos_std; give assumed_std, in "
        "points of 0–10"
    ]
