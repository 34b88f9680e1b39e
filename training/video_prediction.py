"""From what was said about a video's frames to what is said about the video."""

from __future__ import annotations

import math
from collections.abc import Sequence

from schemas.attributes import VOCABULARY, Attribute
from schemas.records import Prediction


def video_prediction(frames: Sequence[Prediction]) -> Prediction:
    """Sum up predictions of a video's frames; of one frame it is that frame's.

    ``score``, ``score_native``, ``composite_score`` and expected codes are means over the frames that have
    them. ``score_std`` is that of the mixture of the frames' distributions, √(mean of their variances +
    variance of their means): as wide as the score of a frame drawn at random. It is not divided by the
    number of frames, because what a model gets wrong about one frame it gets wrong about its neighbours.
    An attribute's value is the one with the most confidence over all frames (the most frequent one, where
    there are no confidences); it has no confidence of its own, for frames tell that of their own value
    only. ``format_mass`` is the smallest. Words are of frames, and left out.

    Args:
        frames: At least one.
    """
    if len(frames) == 1:
        return frames[0]
    values: dict[str, object] = {}
    for attribute in VOCABULARY.evaluated:
        values[attribute.name] = _favourite(attribute, frames)
        values[f"{attribute.name}_expected"] = _mean(
            [getattr(frame, f"{attribute.name}_expected") for frame in frames]
        )
    masses = [frame.format_mass for frame in frames if frame.format_mass is not None]
    return Prediction(
        score=_mean([frame.score for frame in frames]),
        score_std=_deviation(frames),
        score_native=_mean([frame.score_native for frame in frames]),
        composite_score=_mean([frame.composite_score for frame in frames]),
        format_mass=min(masses, default=None),
        context_used=frames[0].context_used,
        **values,  # type: ignore[arg-type]
    )


def mean_of(values: Sequence[float]) -> float:
    """The mean; of one value exactly that value."""
    return math.fsum(values) / len(values)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean_of(known) if known else None


def _deviation(frames: Sequence[Prediction]) -> float | None:
    pairs = [(frame.score, frame.score_std) for frame in frames if frame.score is not None]
    known = [(score, std) for score, std in pairs if std is not None]
    if not known or len(known) < len(pairs):
        return None
    centre = mean_of([score for score, _ in known])
    return math.sqrt(mean_of([std**2 + (score - centre) ** 2 for score, std in known]))


def _favourite(attribute: Attribute, frames: Sequence[Prediction]) -> str | int | None:
    votes: dict[str | int, float] = {}
    for frame in frames:
        value = getattr(frame, attribute.name)
        if value is not None:
            confidence = getattr(frame, f"{attribute.name}_confidence")
            votes[value] = votes.get(value, 0.0) + (1.0 if confidence is None else confidence)
    return max(votes, key=votes.__getitem__, default=None)
