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


def to_unit_std(mos_std: float, scale: ScoreScale) -> float:
    """Map a standard deviation on the native scale to points of 0–10."""
    return mos_std / (scale.native_high - scale.native_low) * 10.0


def highest_score(scale: ScoreScale) -> float:
    """The most that a score can be: one unit of its last digit below 10."""
    return 10.0 - 10.0 ** (1 - scale.digits)


def class_values(scale: ScoreScale) -> tuple[float, ...]:
    """Points of 0–10 that the classes of a head stand for, lowest first; empty where it has none.

    ``levels`` and ``bins`` stand for the middles of equal parts of the range. ``soft_levels`` reach from end
    to end, as their mean is to be every score (DeQA-Score, section 3: levels 1 to 5 on a scale of 1 to 5).
    """
    if scale.head == "soft_levels":
        most = len(scale.level_words) - 1
        return tuple(10.0 * level / most for level in range(most + 1))
    count = {"levels": len(scale.level_words), "bins": scale.bins}.get(scale.head, 0)
    return tuple(10.0 * (number + 0.5) / count for number in range(count))


def class_of(score: float, scale: ScoreScale) -> int:
    """Number of the class nearest to a score of [0, 10]; between two, the lower, as in Q-Align."""
    values = class_values(scale)
    return min(range(len(values)), key=lambda number: (abs(values[number] - score), number))


def score_text(score: float, scale: ScoreScale) -> str:
    """Write a score: a level's word, or min(round(s, M − 1), 10 − 10^(1 − M)) with one integer digit.

    Args:
        score: In [0, 10].
        scale: Gives the head, M (``digits``) and whether trailing zeros are dropped (one decimal always
            stays).
    """
    if scale.head in ("levels", "soft_levels"):
        return scale.level_words[class_of(score, scale)]
    decimals = scale.digits - 1
    text = f"{min(round(score, decimals), highest_score(scale)):.{decimals}f}"
    if scale.trimmed:
        whole, part = text.split(".")
        text = f"{whole}.{part.rstrip('0') or '0'}"
    return text


def composite_score(expected: Mapping[str, float], weights: CompositeWeights) -> float:
    """Weight expected attribute codes: intercept + Σ w · code."""
    return weights.intercept + sum(weight * expected[name] for name, weight in weights.weights.items())
