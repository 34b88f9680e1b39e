"""The score as text and on its scales.

One scale: [0, 10), higher is better. Native scales map to it linearly.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def composite_score(expected: Mapping[str, float], weights: CompositeWeights) -> float:
    """Weight expected attribute codes: intercept + Σ w · code."""
    return weights.intercept + sum(weight * expected[name] for name, weight in weights.weights.items())
