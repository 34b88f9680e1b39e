"""Scores of a labelled data set's images and videos, by the very path of serving."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from PIL import Image

from model.prepared import PreparedImage
from model.scorer import Scorer
from schemas.errors import ConfigurationError, InferenceError, ScoringError
from schemas.manifest import Decoder
from schemas.records import Prediction
from training.layouts.video import is_video, video_frames
from training.video_prediction import mean_of, video_prediction

_WINDOW_IMAGES = 128  # decoded at a time; a video's frames count one each
_PNG_LEVEL = 1  # a frame is packed for a moment only

_Answer = TypeVar("_Answer")
_Prepared = TypeVar("_Prepared")


class Answering(Protocol):
    """What answers about images: a ``Scorer``, or a ``training.free_generation.FreeWriter``."""

    def prepare(self, data: bytes, *, context: str | None = None) -> PreparedImage:
        """Decode one image and tokenise its context."""
        ...

    def in_micro_batches(
        self,
        prepared: Sequence[PreparedImage],
        answer: Callable[[Sequence[PreparedImage]], Sequence[_Prepared]],
    ) -> list[_Prepared]:
        """Put images into micro-batches that suit the device, and their answers back into order."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image or video that could not be read.

    Attributes:
        image: Its file, or its number among those that were given as bytes.
        reason: What is wrong, in words.
    """

    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class AnsweredImages(Generic[_Answer]):
    """What was answered about images, in their order.

    Attributes:
        answers: Of every image that could be read: one, or one a frame of a video in order of time.
        rows: Which of the images that were given these are.
        failures: The others.
    """

    answers: list[list[_Answer]]
    rows: list[int]
    failures: tuple[ImageFailure, ...]


@dataclass(frozen=True, slots=True)
class ScoredImages:
    """What a scorer said about images, in their order.

    Attributes:
        predictions: One an image that could be read; of a video ``video_prediction`` of its frames'.
        readings: The score of every such image as each decoder reads it, from the one decode, of a video the
            mean of its frames'; empty where the template asks for no score.
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
    """Score images, and videos by one frame a second.

    Args:
        scorer: Of the adapter.
        images: Files, videos by their ending, or images' bytes.
        contexts: Text about each, in the same order.
        allow_failures: Whether an image that cannot be read is counted and the others are scored.

    Raises:
        ConfigurationError: Some image cannot be read, and failures are not allowed, or none can be: all of
            them are named. Or the model gave numbers that are not finite, or PyAV is missing for a video.
    """
    answered = answer_images(
        scorer, images, contexts, lambda batch: _answer(scorer, batch), allow_failures=allow_failures
    )
    readings: dict[Decoder, list[float]] = {}
    for frames in answered.answers:
        for decoder in frames[0][1]:
            readings.setdefault(decoder, []).append(mean_of([read[decoder] for _, read in frames]))
    predictions = [video_prediction([said for said, _ in frames]) for frames in answered.answers]
    return ScoredImages(predictions, readings, answered.rows, answered.failures)


def answer_images(
    answering: Answering,
    images: Sequence[Path | bytes],
    contexts: Sequence[str | None],
    answer: Callable[[Sequence[PreparedImage]], Sequence[_Answer]],
    *,
    allow_failures: bool = False,
) -> AnsweredImages[_Answer]:
    """Have something answered about every image, and every frame of every video.

    Args:
        answering: Prepares images, and says how many go together.
        images: Files, videos by their ending, or images' bytes.
        contexts: Text about each, in the same order.
        answer: Gives one answer an image of a micro-batch, in its order.
        allow_failures: Whether an image that cannot be read is counted and the others are answered about.

    Raises:
        ConfigurationError: As ``score_images`` does.
    """
    found: defaultdict[int, list[_Answer]] = defaultdict(list)
    failures: dict[int, ImageFailure] = {}
    read = _read(answering, images, contexts)
    while window := list(islice(read, _WINDOW_IMAGES)):
        failures |= {index: item for index, item in window if isinstance(item, ImageFailure)}
        prepared = [(index, item) for index, item in window if isinstance(item, PreparedImage)]
        if not prepared or (failures and not allow_failures):
            continue  # the rest are only read, so that all failures are named
        try:
            answers = answering.in_micro_batches([item for _, item in prepared], answer)
        except InferenceError as error:
            names = f"{_name(images, prepared[0][0])} to {_name(images, prepared[-1][0])}"
            raise ConfigurationError(f"{error.message}, among {names}") from error
        for (index, _), one in zip(prepared, answers, strict=True):
            found[index].append(one)
    # A video that breaks off has answers about its beginning.
    rows = [index for index in sorted(found) if index not in failures]
    if failures and not (allow_failures and rows):
        raise ConfigurationError([f"{failure.image}: {failure.reason}" for failure in failures.values()])
    return AnsweredImages([found[row] for row in rows], rows, tuple(failures.values()))


def _read(
    answering: Answering, images: Sequence[Path | bytes], contexts: Sequence[str | None]
) -> Iterator[tuple[int, PreparedImage | ImageFailure]]:
    """Every image and every frame of a video, with its place; a failure where it cannot be read (on)."""
    for index, (image, context) in enumerate(zip(images, contexts, strict=True)):
        try:
            for data in _pictures(image):
                yield index, answering.prepare(data, context=context)
        except (OSError, ScoringError) as error:
            yield index, ImageFailure(_name(images, index), _reason(error))


def _pictures(image: Path | bytes) -> Iterator[bytes]:
    if isinstance(image, bytes):
        yield image
    elif is_video(image.name):
        for frame in video_frames(image):
            file = io.BytesIO()
            # As a lossless file a frame goes the way of every image: limits, resize rule, pixel budget.
            Image.fromarray(frame).save(file, "PNG", compress_level=_PNG_LEVEL)
            yield file.getvalue()
    else:
        yield image.read_bytes()


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
