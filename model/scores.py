"""The score as text, and its distribution over the digit tree.

One scale: [0, 10), higher is better. Native scales map to it linearly.
"""

from __future__ import annotations

import torch

from schemas.manifest import CompositeWeights, ScoreScale


def to_unit_scale(mos: float, scale: ScoreScale) -> float:
    """Map a native score to [0, 10].

    Raises:
        ValueError: The score lies outside the native range.
    """
    if not scale.native_low <= mos <= scale.native_high:
        raise ValueError(f"score {mos} is outside {scale.native_low}–{scale.native_high}")
    return (mos - scale.native_low) / (scale.native_high - scale.native_low) * 10.0


def to_native_scale(score: float, scale: ScoreScale) -> float:
    """Map a score of [0, 10) to the native scale."""
    return scale.native_low + score / 10.0 * (scale.native_high - scale.native_low)


def score_text(score: float, scale: ScoreScale) -> str:
    """Write a score: min(round(s, M − 1), 10 − 10^(1 − M)), one integer digit.

    Args:
        score: In [0, 10].
        scale: Gives M (``digits``) and whether trailing zeros are dropped (one decimal always stays).
    """
    decimals = scale.digits - 1
    text = f"{min(round(score, decimals), 10 - 10**-decimals):.{decimals}f}"
    if scale.trimmed:
        whole, part = text.split(".")
        text = f"{whole}.{part.rstrip('0') or '0'}"
    return text


def digit_tree_moments(
    first: torch.Tensor, second: torch.Tensor, digits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chain-rule mean and standard deviation of a score.

    The first two digits are exact; what comes after is taken as uniform, so it adds its midpoint and its
    variance. Unlike an expectation position by position this holds at carries: a belief of 4.00 ± 0.1
    gives 4.00, not 3.60 (realqa.md, "Numeric scores as next tokens").

    Args:
        first: (batch, 10) probabilities of the first digit.
        second: (batch, 10, 10) probabilities of the second digit given the first.
        digits: M, integer digit counted.

    Returns:
        Mean and standard deviation, (batch,) each, of a score in [0, 10).
    """
    joint = first[:, :, None] * second
    steps = torch.arange(10, dtype=joint.dtype, device=joint.device)
    values = steps[:, None] + steps[None, :] / 10
    step = 10.0 ** (1 - digits)
    points = 10 ** (digits - 2)
    rest_mean = step * (points - 1) / 2
    rest_variance = step**2 * (points**2 - 1) / 12
    mean = (joint * values).sum((1, 2)) + rest_mean
    spread = values[None] + rest_mean - mean[:, None, None]
    variance = (joint * spread**2).sum((1, 2)) + rest_variance
    return mean, variance.sqrt()


def composite_score(expected: dict[str, float], weights: CompositeWeights) -> float:
    """Weight expected attribute codes: intercept + Σ w · code."""
    return weights.intercept + sum(weight * expected[name] for name, weight in weights.weights.items())
