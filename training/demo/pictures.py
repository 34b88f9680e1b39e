"""The demo's data set: photographs, degraded, encoded as files are, and read by the path of serving."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from schemas.annotations import Annotation
from schemas.manifest import ImageRule
from training.data import LabelledImage, labelled_image
from training.demo.degradations import Pixels, degrade, tilt
from training.demo.labels import annotate, sample_verdict
from training.demo.photographs import Photograph

_WORKING_SCALE = 1.4
"""Pictures are degraded at up to this many times the model's size, per side: enough that the resize to the
budget is a real one, little enough to be quick."""

_PIECE_SIDE_PX = 64
_CROPPED_SHARE = 0.7
_JPEG_QUALITY = (82, 96)
_CONTEXT_SHARE = 0.4
_CONTEXTS = (
    "IMG_{n}",
    "photo {n}",
    "view from the hotel",
    "our trip, day {d}",
    "breakfast",
    "for sale",
    "animals",
)


@dataclass(frozen=True, slots=True)
class Degraded:
    """An encoded picture, its labels and the photograph it was made of."""

    data: bytes
    annotation: Annotation
    photograph: str


def degraded_pictures(
    photographs: Sequence[tuple[Photograph, Image.Image]],
    pieces_from: Sequence[tuple[Photograph, Image.Image]],
    count: int,
    rule: ImageRule,
    seed: int,
) -> Iterator[Degraded]:
    """Make ``count`` pictures; every photograph is used equally often (±1).

    Args:
        photographs: What to degrade.
        pieces_from: Where foreign objects for the clutter are cut from.
        count: Number of pictures.
        rule: Pixel budget, which lengths refer to.
        seed: Same seed, same pictures.
    """
    rng = np.random.default_rng(seed)
    pieces = tuple(
        np.asarray(image.resize((_PIECE_SIDE_PX, _PIECE_SIDE_PX), reducing_gap=2)) for _, image in pieces_from
    )
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(photographs)).tolist()
    for number, index in enumerate(order[:count]):
        photograph, image = photographs[index]
        yield _picture(photograph, image, pieces, number, rule, rng)


def decoded(pictures: Iterator[Degraded], rule: ImageRule) -> list[LabelledImage]:
    """Read encoded pictures by the path of serving and keep them in memory, 190 KB each at 252 × 252 px."""
    return [labelled_image(picture.data, picture.annotation, rule) for picture in pictures]


def _picture(
    photograph: Photograph,
    image: Image.Image,
    pieces: tuple[Pixels, ...],
    number: int,
    rule: ImageRule,
    rng: np.random.Generator,
) -> Degraded:
    verdict = sample_verdict(rng)
    view = _view(image, rule, rng)
    # The tilt's crop makes the frame smaller, and the frame is what the model sees.
    seen = tilt(view, verdict.severities.tilt_deg)
    scale = math.sqrt(seen.width * seen.height / rule.max_pixels)
    pixels = degrade(np.asarray(view), verdict.severities, rng, scale=scale, pieces=pieces)
    file = io.BytesIO()
    quality = int(rng.integers(*_JPEG_QUALITY))
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    annotation = annotate(verdict, f"{photograph.name}-{number}.jpg", rng)
    if rng.random() < _CONTEXT_SHARE:
        context = _CONTEXTS[rng.integers(len(_CONTEXTS))]
        annotation = annotation.model_copy(
            update={"context": context.format(n=rng.integers(1000, 9999), d=rng.integers(1, 15))}
        )
    return Degraded(file.getvalue(), annotation, photograph.name)


def _view(image: Image.Image, rule: ImageRule, rng: np.random.Generator) -> Image.Image:
    """A random part of the photograph, sometimes mirrored, at the working size."""
    part = rng.uniform(0.6, 1.0)
    if rng.random() >= _CROPPED_SHARE:
        part = 1.0
    width, height = image.width * part, image.height * part
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    most = rule.max_pixels * _WORKING_SCALE**2
    shrink = min(1.0, math.sqrt(most / (width * height)))
    size = (round(width * shrink), round(height * shrink))
    box = (left, top, left + width, top + height)
    view = image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=3)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view
