"""The demo's pictures: photographs with a scene in them, degraded, encoded as files are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from schemas.annotations import Annotation
from schemas.manifest import ImageRule
from training.demo.degradations import Severities, degrade, jpeg, straightened_size
from training.demo.labels import LEVEL_DEG, TILTED_DEG, Verdict, annotate, sample_verdict
from training.demo.scenes import LARGEST, Mask, Scene, compose

_WORKING_SCALE = (1.0, 1.4)
"""Pictures are degraded at this many times the model's size, per side: large enough that the resize to the
budget is a real one, little enough to be quick. Smaller photographs are not enlarged."""

_SMALLEST_PART = 0.65
_LARGE = 3.0
"""Only photographs of this many times the model's pixels are cropped: pictures would become too small."""
_CROPPED_SHARE = 0.7
_KEPT_PIXELS = 12.0
"""Photographs of this many times the model's pixels are enough for every crop and tilt."""
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

ZONES = 4
ZONE_SIDE = 48
"""Finer than the visual tokens of any picture of the demo."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph to make pictures of."""

    name: str
    image: Image.Image


@dataclass(frozen=True, slots=True)
class Degraded:
    """An encoded picture and all that is known about it.

    Attributes:
        data: A JPEG file.
        annotation: Labels; ``source`` names the photograph, ``image`` the picture.
        severities: What was done.
        zones: uint8 (ZONES, ZONE_SIDE, ZONE_SIDE), the picture shrunk to a square: how much of every place
            shows the subject, what hides it, objects around it, objects in the background; 255 = nothing
            else.
    """

    data: bytes
    annotation: Annotation
    severities: Severities
    zones: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Props:
    """Cut-outs as pictures of a pixel budget need them; no picture has to shrink them from their full size.

    Attributes:
        subjects: RGBA.
        pieces: The same, smaller, as foreign objects.
    """

    subjects: Sequence[Image.Image]
    pieces: Sequence[Image.Image]


def props(cutouts: Sequence[Image.Image], rule: ImageRule) -> Props:
    """Shrink cut-outs to the largest size at which they can stand in a picture."""
    side = _WORKING_SCALE[1] * math.sqrt(rule.max_pixels)
    return Props(*([_fitted(cutout, share * side) for cutout in cutouts] for share in LARGEST))


def _fitted(cutout: Image.Image, side: float) -> Image.Image:
    fitted = cutout.copy()
    fitted.thumbnail((max(2, round(side)), max(2, round(side))), Image.Resampling.LANCZOS)
    return fitted


def photograph_order(photographs: int, pictures: int, seed: int) -> list[int]:
    """Which photograph every picture is made of, by index: each is used equally often (±1)."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < pictures:
        order += rng.permutation(photographs).tolist()
    return order[:pictures]


def degraded_picture(photograph: Photo, stock: Props, number: int, rule: ImageRule, seed: int) -> Degraded:
    """Make one picture of a data set; it depends on no other.

    Args:
        photograph: What to degrade.
        stock: Subjects and foreign objects (``props``).
        number: Of the picture in its data set.
        rule: Pixel budget, which lengths refer to.
        seed: Of the data set: same seed and number, same picture.
    """
    rng = np.random.default_rng([seed, number])
    verdict = sample_verdict(rng)
    scene, verdict = _scene(photograph, stock, verdict, rule, rng)
    size = scene.picture.size
    scale = max(1.0, math.sqrt(size[0] * size[1] / rule.max_pixels))
    pixels = degrade(np.asarray(scene.picture), verdict.severities, rng, scale=scale)
    annotation = annotate(verdict, f"{photograph.name}-{number}.jpg", rng).model_copy(
        update={"source": photograph.name, "context": _context(rng)}
    )
    data = jpeg(pixels, verdict.severities.jpeg_quality)
    masks = (scene.subject, scene.hidden, scene.subject_pieces, scene.background_pieces)
    zones = [_shrunk(mask) for mask in masks]
    return Degraded(data, annotation, verdict.severities, np.stack(zones))


def shrunk_photograph(photograph: Photo, rule: ImageRule) -> Photo:
    """No larger than pictures need it: made once, it saves every picture most of its resize."""
    image = photograph.image
    shrink = math.sqrt(_KEPT_PIXELS * rule.max_pixels / (image.width * image.height))
    if shrink >= 1:
        return photograph
    size = (round(image.width * shrink), round(image.height * shrink))
    return Photo(photograph.name, image.resize(size, Image.Resampling.HAMMING, reducing_gap=3))


def _shrunk(zone: Mask) -> npt.NDArray[np.uint8]:
    whole = Image.fromarray((zone * 255 + 0.5).astype(np.uint8))
    return np.asarray(whole.resize((ZONE_SIDE, ZONE_SIDE), Image.Resampling.BOX))


def _scene(
    photograph: Photo,
    stock: Props,
    verdict: Verdict,
    rule: ImageRule,
    rng: np.random.Generator,
) -> tuple[Scene, Verdict]:
    """Compose, and write down where the subject came to stand."""
    severities = verdict.severities
    # The frame of a straight picture is cut as for a tilt: the size of a picture must not tell its label.
    as_if_tilted, tilt_deg = rng.uniform(*TILTED_DEG), abs(severities.tilt_deg)
    frame_deg = as_if_tilted if tilt_deg <= LEVEL_DEG else tilt_deg
    view = _view(photograph.image, rule, frame_deg, rng)
    first, *others = rng.permutation(len(stock.subjects)).tolist()
    subject = stock.subjects[first] if verdict.has_subject else None
    pieces = [stock.pieces[index] for index in others]
    scene = compose(view, subject, pieces, severities, rng, frame_deg=frame_deg)
    return scene, replace(verdict, severities=replace(severities, off_centre=scene.off_centre))


def _context(rng: np.random.Generator) -> str | None:
    text = _CONTEXTS[rng.integers(len(_CONTEXTS))].format(n=rng.integers(1000, 9999), d=rng.integers(1, 15))
    return text if rng.random() < _CONTEXT_SHARE else None


def _view(image: Image.Image, rule: ImageRule, frame_deg: float, rng: np.random.Generator) -> Image.Image:
    """A random part of the photograph, sometimes mirrored, so large that the frame fits the budget."""
    part = rng.uniform(_SMALLEST_PART, 1.0)
    if rng.random() >= _CROPPED_SHARE or image.width * image.height < _LARGE * rule.max_pixels:
        part = 1.0
    width, height = image.width * part, image.height * part
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    kept = straightened_size(width, height, frame_deg)
    most = rule.max_pixels * rng.uniform(*_WORKING_SCALE) ** 2
    shrink = min(1.0, math.sqrt(most / (kept[0] * kept[1])))
    size = (round(width * shrink), round(height * shrink))
    box = (left, top, left + width, top + height)
    view = image.resize(size, Image.Resampling.HAMMING, box, reducing_gap=3)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view
