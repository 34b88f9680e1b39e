"""What stands in a picture: a subject of known outline, what hides it, and what clutters the place.

Subjects and foreign objects are cut-outs with alpha, so that it is known to the pixel which share of a
subject is missing and what lies in or around it. Pure functions; the generator decides places only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from training.demo.degradations import Severities, tilt

Mask = npt.NDArray[np.float32]
"""(height, width), 0-1."""

_SUBJECT_SIDE = (0.5, 0.75)
"""Longer side of a subject as a share of the frame's shorter side."""
_PIECE_SIDE = (0.12, 0.19)
"""Longer side of a foreign object as a share of the square root of the frame's area."""
LARGEST = (_SUBJECT_SIDE[1], _PIECE_SIDE[1])
"""Of a subject and of a foreign object, as a share of the square root of the frame's area."""
_MARGIN = 0.02
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; may reach over the frame."""

    left: float
    top: float
    width: float
    height: float

    @property
    def centre(self) -> tuple[float, float]:
        """X and y of the centre."""
        return self.left + self.width / 2, self.top + self.height / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A composed picture.

    Attributes:
        picture: RGB.
        subject: Where the subject shows; nowhere if there is none.
        hidden: Where something hides it.
        subject_pieces, background_pieces: Where foreign objects show, by zone.
        off_centre: As ``Severities.off_centre``, as it came out.
    """

    picture: Image.Image
    subject: Mask
    hidden: Mask
    subject_pieces: Mask
    background_pieces: Mask
    off_centre: float


def compose(
    view: Image.Image,
    subject: Image.Image | None,
    pieces: Sequence[Image.Image],
    severities: Severities,
    rng: np.random.Generator,
    *,
    frame_deg: float = 0.0,
) -> Scene:
    """Tilt the view, put a subject into it, and foreign objects around it.

    Foreign objects stand behind the subject: what hides it is ``cut``'s business alone.

    Args:
        view: Part of a photograph.
        subject: RGBA, cut to its outline; None = the photograph is all there is.
        pieces: RGBA cut-outs to clutter with.
        severities: ``tilt_deg``, ``cut``, ``off_centre``, ``subject_pieces`` and ``background_pieces`` count.
        rng: Decides places, sizes and the side at which a subject is cut.
        frame_deg: The frame is cut as for at least this tilt (``degradations.tilt``).
    """
    picture = tilt(view, severities.tilt_deg, frame_deg).copy()
    figure, box, by_frame = None, None, bool(rng.random() < 0.5)
    if subject is not None:
        figure = _figure(subject, picture, severities.tilt_deg, rng)
        box = _place(picture, figure, severities, by_frame, rng)
    counts = ((severities.subject_pieces, True), (severities.background_pieces, False))
    around, elsewhere = (_scatter(picture, pieces, count, box, central, rng) for count, central in counts)
    if figure is None or box is None:
        nowhere = np.zeros_like(around)
        return Scene(picture, nowhere, nowhere, around, elsewhere, 0.0)
    shown = _paste(picture, figure, box)
    cover = _obscure(picture, shown, severities.cut, rng) if severities.cut and not by_frame else 0 * shown
    around, elsewhere = ((1 - shown) * (1 - cover) * zone for zone in (around, elsewhere))
    return Scene(picture, shown * (1 - cover), shown * cover, around, elsewhere, _off_centre(picture, box))


def _scatter(
    picture: Image.Image,
    pieces: Sequence[Image.Image],
    count: int,
    subject: Box | None,
    central: bool,
    rng: np.random.Generator,
) -> Mask:
    """Paste foreign objects around the subject, or away from it; returns where they show."""
    zone = np.zeros((picture.height, picture.width), np.float32)
    for _ in range(count if pieces else 0):
        piece = _piece(pieces, picture, rng)
        np.maximum(zone, _paste(picture, piece, _spot(picture, piece, subject, central, rng)), out=zone)
    return zone


def cut_to_outline(picture: Image.Image) -> Image.Image:
    """Cut an RGBA picture to the box of what is not transparent."""
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    return picture.crop(box) if box else picture


def _figure(
    subject: Image.Image, picture: Image.Image, degrees: float, rng: np.random.Generator
) -> Image.Image:
    side = min(picture.size) * rng.uniform(*_SUBJECT_SIDE)
    figure = _resized(subject, side)
    if rng.random() < 0.5:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not degrees:
        return figure
    # The camera is tilted, and with it all that it sees.
    return cut_to_outline(figure.rotate(degrees, Image.Resampling.BICUBIC, expand=True))


def _resized(cutout: Image.Image, side: float) -> Image.Image:
    scale = side / max(cutout.size)
    size = (max(2, round(cutout.width * scale)), max(2, round(cutout.height * scale)))
    return cutout.resize(size, Image.Resampling.BICUBIC, reducing_gap=2)


def _place(
    picture: Image.Image,
    figure: Image.Image,
    severities: Severities,
    by_frame: bool,
    rng: np.random.Generator,
) -> Box:
    """Where the figure stands: inside the frame, or cut by one of its sides."""
    room_x, room_y = (
        max(0.0, (whole - part) / 2 - _MARGIN * whole)
        for whole, part in zip(picture.size, figure.size, strict=True)
    )
    centre_x, centre_y = picture.width / 2, picture.height / 2
    angle = rng.uniform(0, 2 * math.pi)
    # On the edge of a rectangle, so that the corners get their share.
    reach = severities.off_centre / max(abs(math.cos(angle)), abs(math.sin(angle)))
    x = centre_x + max(-room_x, min(room_x, centre_x * reach * math.cos(angle)))
    y = centre_y + max(-room_y, min(room_y, centre_y * reach * math.sin(angle)))
    side = int(rng.integers(4))
    if severities.cut and by_frame:
        lost = _lost_length(figure, severities.cut, side)
        x, y = (
            (figure.width / 2 - lost, y),
            (picture.width - figure.width / 2 + lost, y),
            (x, figure.height / 2 - lost),
            (x, picture.height - figure.height / 2 + lost),
        )[side]
    return Box(x - figure.width / 2, y - figure.height / 2, figure.width, figure.height)


def _lost_length(figure: Image.Image, share: float, side: int) -> float:
    """How much of a figure's width or height holds ``share`` of its area, from one side on."""
    alpha = np.asarray(figure.getchannel("A"), dtype=np.float64)
    profile = alpha.sum(axis=0 if side < 2 else 1)
    if side % 2:
        profile = profile[::-1]
    return float(np.searchsorted(np.cumsum(profile), share * profile.sum()) + 1)


def _off_centre(picture: Image.Image, box: Box) -> float:
    x, y = box.centre
    return min(1.0, max(abs(2 * x / picture.width - 1), abs(2 * y / picture.height - 1)))


def _paste(picture: Image.Image, figure: Image.Image, box: Box) -> Mask:
    """Paste in place; returns where the figure shows."""
    left, top = round(box.left), round(box.top)
    picture.paste(figure, (left, top), figure)
    mask = Image.new("L", picture.size, 0)
    mask.paste(figure.getchannel("A"), (left, top))
    return np.asarray(mask, dtype=np.float32) / np.float32(255)


def _obscure(picture: Image.Image, shown: Mask, share: float, rng: np.random.Generator) -> Mask:
    """Put a plain oval over ``share`` of what shows, around a random point of it; returns the oval."""
    rows, columns = np.nonzero(shown > 0.5)
    if not rows.size:
        return 0 * shown
    pick = rng.integers(rows.size)
    x, y = float(columns[pick]), float(rows[pick])
    ratio = rng.uniform(0.6, 1.6)
    # Radius at which the oval holds the wanted share: the quantile of the pixels' distances.
    distance = np.hypot((columns - x) / ratio, (rows - y) * ratio)
    radius = float(np.quantile(distance, share))
    level = rng.integers(20, 220)
    colour = tuple(int(value) for value in np.clip(level + rng.integers(-25, 26, 3), 0, 255))
    oval = (x - radius * ratio, y - radius / ratio, x + radius * ratio, y + radius / ratio)
    ImageDraw.Draw(picture).ellipse(oval, fill=colour)
    cover = Image.new("L", picture.size, 0)
    ImageDraw.Draw(cover).ellipse(oval, fill=255)
    return np.asarray(cover, dtype=np.float32) / np.float32(255)


def _piece(pieces: Sequence[Image.Image], picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = math.sqrt(picture.width * picture.height) * rng.uniform(*_PIECE_SIDE)
    return _resized(pieces[int(rng.integers(len(pieces)))], side)


def _spot(
    picture: Image.Image, piece: Image.Image, subject: Box | None, central: bool, rng: np.random.Generator
) -> Box:
    """A place around the subject's outline, or one well away from it; without a subject the centre counts."""
    width, height = picture.size
    box = subject or Box(width * 0.3, height * 0.3, width * 0.4, height * 0.4)
    centre_x, centre_y = box.centre
    x, y = centre_x, centre_y
    for _ in range(_TRIES):
        if central:
            angle, radius = rng.uniform(0, 2 * math.pi), rng.uniform(0.9, 1.3)
            x = centre_x + box.width / 2 * radius * math.cos(angle)
            y = centre_y + box.height / 2 * radius * math.sin(angle)
            if 0 <= x <= width and 0 <= y <= height:
                break
        else:
            x, y = rng.uniform(0.03, 0.97) * width, rng.uniform(0.03, 0.97) * height
            away = max(abs(x - centre_x) / box.width, abs(y - centre_y) / box.height)
            if away > 0.5 + piece.width / box.width:
                break
    return Box(x - piece.width / 2, y - piece.height / 2, piece.width, piece.height)
