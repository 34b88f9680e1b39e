"""Ladders: photographs at rising severity of one degradation, and whether a judge ranks them.

The top rung of a ladder is the photograph as it is; every further rung is the same photograph, a step worse.
A judge that understands the degradation puts them in order: measured by SRCC, with a sign so that **+ means
that worse pictures get worse marks**. Pictures are made at exactly the size at which the model sees them, so
lengths are model pixels, and written as PNG, so that no file adds a fault of its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from schemas.records import Prediction
from training.bootstrap import Estimate, estimates
from training.demo import degradations, unseen
from training.demo.degradations import BlurKind, Pixels
from training.demo.judges import Judge
from training.figures import Numbers, difference, figure, srcc

Apply = Callable[[Pixels, float, np.random.Generator], Pixels]
Predict = Callable[[Sequence[bytes]], Sequence[Prediction]]

_CLARITY, _EXPOSURE, _SATURATION = "image_clarity", "exposure", "saturation"


@dataclass(frozen=True, slots=True)
class Ladder:
    """One degradation at rising severity.

    Attributes:
        name: In the words of the table.
        unit: Of the severities.
        family: Whether training uses this degradation.
        attribute: The attribute that it should move; None = only the score.
        severities: Best first; the first stands for the untouched photograph and is never applied.
        apply: The degradation, pure but for the generator.
    """

    name: str
    unit: str
    family: Literal["seen", "unseen"]
    attribute: str | None
    severities: tuple[float, ...]
    apply: Apply

    @property
    def direction(self) -> int:
        """1 where a larger number is worse, -1 where a smaller one is."""
        return 1 if self.severities[-1] > self.severities[0] else -1

    @property
    def compared(self) -> Literal["clarity", "score"]:
        """Which answer of the model is held against BRISQUE, whose subject is clarity."""
        return "clarity" if self.attribute == _CLARITY else "score"


@dataclass(frozen=True, slots=True)
class Frame:
    """A photograph, brought to the size that all ladders share.

    Attributes:
        photograph: Its name.
        pixels: (height, width, 3) uint8 RGB.
    """

    photograph: str
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Rung:
    """One photograph at one severity, as a PNG file."""

    photograph: str
    severity: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well a judge ranks a ladder, -1 to 1, + = worse pictures get worse marks.

    Attributes:
        pooled: SRCC over all pictures of all photographs: also says whether marks of different photographs
            can be compared.
        within: Mean over photographs of the SRCC over a photograph's own rungs; a photograph whose marks are
            all the same counts 0, for they rank nothing.
    """

    pooled: Estimate
    within: float


@dataclass(frozen=True, slots=True)
class Climb:
    """What the judges made of a ladder; None where a judge has no answer to one of its pictures.

    Attributes:
        score: Of the model's score.
        attribute: Of the expected code of the ladder's attribute.
        brisque: Of BRISQUE.
        lead: Pooled SRCC of the model's answer that ``Ladder.compared`` names minus BRISQUE's, over the same
            draws of photographs.
    """

    ladder: Ladder
    score: Ranking | None
    attribute: Ranking | None
    brisque: Ranking | None
    lead: Estimate | None


def _blurred(kind: BlurKind) -> Apply:
    def apply(pixels: Pixels, sigma_px: float, rng: np.random.Generator) -> Pixels:
        return np.asarray(degradations.blur(Image.fromarray(pixels), sigma_px, kind, rng))

    return apply


def _defocused(pixels: Pixels, radius_px: float, rng: np.random.Generator) -> Pixels:
    return np.asarray(degradations.defocus(Image.fromarray(pixels), radius_px))


def _compressed(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(degradations.jpeg(pixels, round(quality)))))


def _plain(function: Callable[[Pixels, float], Pixels]) -> Apply:
    return lambda pixels, severity, rng: function(pixels, severity)


_SIGMA_PX = (0.0, 0.6, 1.0, 1.6, 2.6, 4.2)
_expose, _saturate = _plain(degradations.expose), _plain(degradations.change_saturation)

LADDERS = (
    Ladder("Gaussian blur", "σ, px", "seen", _CLARITY, _SIGMA_PX, _blurred("focus")),
    Ladder("defocus", "radius, px", "seen", _CLARITY, (0, 1.2, 2, 3.2, 5.2, 8.4), _defocused),
    Ladder("motion blur", "σ, px", "seen", _CLARITY, _SIGMA_PX, _blurred("motion")),
    Ladder("noise", "σ, levels", "seen", _CLARITY, (0, 4, 8, 16, 32, 64), degradations.add_noise),
    Ladder("JPEG", "quality", "seen", _CLARITY, (95, 60, 30, 16, 8, 4), _compressed),
    Ladder("underexposure", "EV", "seen", _EXPOSURE, (0, -0.7, -1.4, -2.1, -2.8, -3.5), _expose),
    Ladder("overexposure", "EV", "seen", _EXPOSURE, (0, 0.5, 1, 1.5, 2, 2.5), _expose),
    Ladder(
        "blown highlights",
        "share",
        "seen",
        _EXPOSURE,
        (0, 0.05, 0.1, 0.2, 0.35, 0.5),
        _plain(degradations.clip_highlights),
    ),
    Ladder("undersaturation", "gain", "seen", _SATURATION, (1, 0.8, 0.6, 0.4, 0.2, 0), _saturate),
    Ladder("oversaturation", "gain", "seen", _SATURATION, (1, 1.3, 1.7, 2.2, 2.9, 3.8), _saturate),
    Ladder("pixelation", "block, px", "unseen", _CLARITY, (1, 2, 3, 4, 6, 8), _plain(unseen.pixelate)),
    Ladder(
        "zoom blur", "zoom", "unseen", _CLARITY, (0, 0.02, 0.04, 0.08, 0.16, 0.32), _plain(unseen.zoom_blur)
    ),
    Ladder(
        "salt and pepper",
        "share",
        "unseen",
        _CLARITY,
        (0, 0.01, 0.02, 0.04, 0.08, 0.16),
        unseen.salt_and_pepper,
    ),
    Ladder(
        "vignetting", "EV in the corner", "unseen", _EXPOSURE, (0, 0.5, 1, 2, 3, 4), _plain(unseen.vignette)
    ),
    Ladder("posterisation", "levels", "unseen", None, (256, 32, 16, 8, 4, 2), _plain(unseen.posterise)),
    Ladder("haze", "airlight", "unseen", None, (0, 0.05, 0.1, 0.2, 0.4, 0.8), _plain(unseen.haze)),
    Ladder("colour cast", "mired", "unseen", None, (0, 10, 20, 40, 80, 160), _plain(unseen.colour_cast)),
)
"""Every ladder has six rungs, doubling where the eye counts in ratios."""


def frame(image: Image.Image, size_px: tuple[int, int]) -> Pixels | None:
    """Cut the centre of the wanted aspect and shrink it.

    Args:
        image: RGB.
        size_px: Width and height.

    Returns:
        The frame, or None where the photograph would have to be enlarged: that alone makes it blurred.
    """
    width, height = size_px
    part = min(image.width / width, image.height / height)
    if part < 1:
        return None
    # Rounding must not let the box stand out of the picture.
    left, top = max((image.width - part * width) / 2, 0.0), max((image.height - part * height) / 2, 0.0)
    box = (left, top, min(left + part * width, image.width), min(top + part * height, image.height))
    return np.asarray(image.resize(size_px, Image.Resampling.BICUBIC, box, reducing_gap=3))


def rungs(frames: Sequence[Frame], ladder: Ladder, seed: int) -> Iterator[Rung]:
    """Every frame at every severity, frame by frame, best first.

    Args:
        frames: All of one size.
        ladder: What is done.
        seed: Decides directions and the grain; the same on every rung of a photograph.
    """
    for number, photograph in enumerate(frames):
        for severity in ladder.severities:
            pixels = photograph.pixels
            if severity != ladder.severities[0]:
                pixels = ladder.apply(pixels, severity, np.random.default_rng([seed, number]))
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG", compress_level=1)
            yield Rung(photograph.photograph, severity, file.getvalue())


def climb(
    ladder: Ladder, frames: Sequence[Frame], predict: Predict, brisque: Judge | None, seed: int
) -> Climb:
    """Make a ladder of every frame and ask the judges.

    Args:
        ladder: What is done to the frames.
        frames: All of one size, two or more.
        predict: The model: ``Scorer.score``.
        brisque: ``judges.load_brisque()``.
        seed: Of the degradations and of the bootstrap.
    """
    files = [rung.data for rung in rungs(frames, ladder, seed)]
    predictions = predict(files)
    marks: dict[str, list[float | None]] = {
        "score": [prediction.score for prediction in predictions],
        "attribute": [
            getattr(prediction, f"{ladder.attribute}_expected", None) for prediction in predictions
        ],
        # Lower is better there, higher everywhere else.
        "brisque": [None if mark is None else -mark for mark in brisque(files)] if brisque else [None],
    }
    given = {judge: np.array(values, float) for judge, values in marks.items() if None not in values}
    steps = -np.arange(len(ladder.severities), dtype=float)
    statistics = {judge: srcc(values, np.tile(steps, len(frames))) for judge, values in given.items()}
    compared = "attribute" if ladder.compared == "clarity" else "score"
    if compared in given and "brisque" in given:
        statistics["lead"] = difference(statistics[compared], statistics["brisque"])
    photographs = np.repeat(np.arange(len(frames)), len(steps))
    pooled = dict(zip(statistics, estimates(list(statistics.values()), photographs, seed=seed), strict=True))
    rankings = {judge: Ranking(pooled[judge], _within(values, steps)) for judge, values in given.items()}
    return Climb(
        ladder, rankings.get("score"), rankings.get("attribute"), rankings.get("brisque"), pooled.get("lead")
    )


def _within(marks: Numbers, steps: Numbers) -> float:
    found = [figure(srcc(row, steps), len(steps)) or 0.0 for row in marks.reshape(-1, len(steps))]
    return sum(found) / len(found)


def table(climbs: Sequence[Climb], missing: str | None = None) -> str:
    """The figures as Markdown, seen and unseen degradations apart.

    Args:
        climbs: Of all ladders.
        missing: Why there is no column of BRISQUE's, where there is none.
    """
    judge = missing or "BRISQUE"
    lines = [
        f"| degradation | after the untouched | score | its attribute | {judge} "
        "| clarity or score − BRISQUE |",
        "|---|---|---|---|---|---|",
    ]
    for family, title in (("seen", "**as in training**"), ("unseen", "**never in training**")):
        lines.append(f"| {title} | | | | | |")
        lines += [_row(found) for found in climbs if found.ladder.family == family]
    return "\n".join(lines)


def _row(found: Climb) -> str:
    ladder = found.ladder
    severities = ", ".join(f"{severity:g}" for severity in ladder.severities[1:])
    attribute = f"{(ladder.attribute or '').replace('_', ' ')} {_cell(found.attribute)}".strip()
    lead = "–" if found.lead is None else f"{ladder.compared} {_figure(found.lead, '+.2f')}"
    steps = f"{severities} ({ladder.unit})"
    return (
        f"| {ladder.name} | {steps} | {_cell(found.score)} | {attribute} | {_cell(found.brisque)} | {lead} |"
    )


def _cell(ranking: Ranking | None) -> str:
    if ranking is None:
        return "–"
    return f"{_figure(ranking.pooled, '.2f')} / {ranking.within:.2f}"


def _figure(estimate: Estimate, form: str) -> str:
    if estimate.value is None:
        return "none: all the same"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
