"""Scores of a labelled data set's images, by the very path of serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.scorer import PreparedImage, Scorer
from schemas.errors import ConfigurationError, InferenceError, ScoringError
from schemas.manifest import Decoder
from schemas.records import Prediction

_WINDOW_IMAGES = 128  # decoded at a time


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image that could not be read.

    Attributes:
        image: Its file, or its number among those that were given as bytes.
        reason: What is wrong, in words.
    """

    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class ScoredImages:
    """What a scorer said about images, in their order.

    Attributes:
        predictions: One an image that could be read.
        readings: The score of every such image as each decoder reads it, from the one decode; empty where the
            template asks for no score.
        rows: Which of the images that were given these are.
        failures: The others.
    """

    predictions: list[Prediction]
    readings: dict[Decoder, list[float]]
    rows: list[int]
    failures: tuple[ImageFailure, ...] = ()


def score_images(
    scorer: Scorer,
    images: Sequence[Path | bytes],
    contexts: Sequence[str | None],
    *,
    allow_failures: bool = False,
) -> ScoredImages:
    """Score images.

    Args:
        scorer: Of the adapter.
        images: Files, or their bytes.
        contexts: Text about each, in the same order.
        allow_failures: Whether an image that cannot be read is counted and the others are scored.

    Raises:
        ConfigurationError: Some image cannot be read, and failures are not allowed, or none can be: all of
            them are named. Or the model gave numbers that are not finite.
    """
    answers: list[tuple[Prediction, dict[Decoder, float]]] = []
    rows: list[int] = []
    failures: list[ImageFailure] = []
    for start in range(0, len(images), _WINDOW_IMAGES):
        window: list[int] = []
        prepared: list[PreparedImage] = []
        for index in range(start, min(start + _WINDOW_IMAGES, len(images))):
            try:
                prepared.append(_prepare(scorer, images[index], contexts[index]))
                window.append(index)
            except (OSError, ScoringError) as error:
                failures.append(ImageFailure(_name(images, index), _reason(error)))
        if not prepared or (failures and not allow_failures):
            continue  # the rest are only read, so that all failures are named
        try:
            answers += scorer.in_micro_batches(prepared, lambda batch: _answer(scorer, batch))
        except InferenceError as error:
            names = f"{_name(images, window[0])} to {_name(images, window[-1])}"
            raise ConfigurationError(f"{error.message}, among {names}") from error
        rows += window
    if failures and not (allow_failures and answers):
        raise ConfigurationError([f"{failure.image}: {failure.reason}" for failure in failures])
    readings: dict[Decoder, list[float]] = {}
    for _, read in answers:
        for decoder, score in read.items():
            readings.setdefault(decoder, []).append(score)
    return ScoredImages([prediction for prediction, _ in answers], readings, rows, tuple(failures))


def _prepare(scorer: Scorer, image: Path | bytes, context: str | None) -> PreparedImage:
    data = image if isinstance(image, bytes) else image.read_bytes()
    return scorer.prepare(data, context=context)


def _answer(scorer: Scorer, batch: Sequence[PreparedImage]) -> list[tuple[Prediction, dict[Decoder, float]]]:
    decisions = scorer.decide(batch)
    predictions = scorer.reader.read(decisions, [image.context_used for image in batch])
    readings = scorer.reader.score_readings(decisions)
    by_image = [{decoder: read[row] for decoder, read in readings.items()} for row in range(len(batch))]
    return list(zip(predictions, by_image, strict=True))


def _name(images: Sequence[Path | bytes], index: int) -> str:
    image = images[index]
    return f"image {index + 1}" if isinstance(image, bytes) else str(image)


def _reason(error: OSError | ScoringError) -> str:
    return error.message if isinstance(error, ScoringError) else error.strerror or str(error)
