"""From severities to labels: the synthetic "opinion" of the demo, stated in full.

Nobody looked at these pictures. A label says what was done to a photograph; the two integers and the score
are formulas over the same severities, with a little noise. The model that learns them knows these formulas
and nothing of human taste.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.annotations import Annotation
from training.demo.degradations import BlurKind, Severities

UNTOUCHED_SHARE = 0.08
"""Share of pictures that nothing is done to."""

SUBJECT_SHARE = 0.75
"""Share of pictures that a subject is put into; in the others there is nothing to cut or to be around."""

MOS_NOISE, INTEGER_NOISE = 0.15, 0.3
"""Standard deviation of the noise on the score (of 10) and, before rounding, on the integers."""


LEVEL_DEG = 1.0
"""Up to here nobody calls a picture tilted: straight ones are turned a little too, and lose as much sharpness
by it as tilted ones."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One label of an attribute and the severities that earn it; gaps between steps are left out."""

    label: str
    low: float
    high: float
    weight: float


@dataclass(frozen=True, slots=True)
class _Unclear:
    """One label of clarity, and the severity of every cause that earns it alone."""

    label: str
    weight: float
    blur_px: tuple[float, float]
    noise_levels: tuple[float, float]
    jpeg_quality: tuple[int, int]


_CLARITY = (
    _Unclear("clear", 0.4, (0.0, 0.0), (0.0, 0.0), (85, 95)),
    _Unclear("slightly blurry", 0.2, (1.0, 1.4), (8.0, 11.0), (18, 24)),
    _Unclear("blurry", 0.2, (2.1, 3.0), (17.0, 24.0), (8, 11)),
    _Unclear("very blurry", 0.2, (4.4, 6.4), (36.0, 52.0), (2, 4)),
)
_CAUSES = (("blur", 0.6), ("noise", 0.22), ("jpeg", 0.18))
_SECOND_CAUSE_SHARE = 0.2
_BLUR_KINDS: tuple[tuple[BlurKind, float], ...] = (("focus", 0.4), ("defocus", 0.3), ("motion", 0.3))
_EXPOSURE = (
    _Step("properly exposed", 0.0, 0.0, 0.44),
    _Step("slightly overexposed", 0.8, 1.2, 0.14),
    _Step("overexposed", 1.9, 2.8, 0.14),
    _Step("slightly underexposed", -1.6, -1.1, 0.14),
    _Step("underexposed", -3.2, -2.4, 0.14),
)
_CLIPPED = {"slightly overexposed": (0.10, 0.18), "overexposed": (0.35, 0.55)}
_CLIPPED_SHARE = 0.35
"""Share of the pictures exposed too much that get blown-out highlights instead of more light everywhere."""
_SATURATION = (
    _Step("properly saturated", 1.0, 1.0, 0.44),
    _Step("slightly oversaturated", 1.6, 2.0, 0.14),
    _Step("oversaturated", 2.8, 4.2, 0.14),
    _Step("slightly undersaturated", 0.3, 0.5, 0.14),
    _Step("undersaturated", 0.0, 0.1, 0.14),
)
TILTED_DEG = (10.0, 25.0)
"""Tilt of a picture that is not level."""
_LEVEL = (
    _Step("taken straight", 0.0, LEVEL_DEG, 0.5),
    _Step("not horizontal", *TILTED_DEG, 0.5),
)
_INTEGRITY = (
    _Step("complete", 0.0, 0.0, 0.4),
    _Step("partially complete (slightly cut off or slightly obscured)", 0.20, 0.32, 0.3),
    _Step("incomplete (mostly cut off or mostly obscured)", 0.58, 0.72, 0.3),
)
_SUBJECT_CLUTTER = (
    _Step("uncluttered", 0, 0, 0.44),
    _Step("moderately cluttered", 3, 4, 0.28),
    _Step("cluttered", 8, 11, 0.28),
)
_BACKGROUND_CLUTTER = (
    _Step("uncluttered", 0, 0, 0.44),
    _Step("moderately cluttered", 4, 5, 0.28),
    _Step("cluttered", 11, 16, 0.28),
)
_CONTRAST = (_Step("full", 1.0, 1.0, 0.75), _Step("flat", 0.3, 0.6, 0.25))
_OFF_CENTRE = (_Step("centred", 0.0, 0.12, 0.5), _Step("aside", 0.35, 0.6, 0.5))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The labels that severities earn."""

    severities: Severities
    has_subject: bool
    subject_integrity: str
    subject_clutter: str
    background_clutter: str
    level_shot: str
    image_clarity: str
    exposure: str
    saturation: str


def sample_verdict(rng: np.random.Generator) -> Verdict:
    """Draw every degradation independently, several at once, and name the labels."""
    untouched = rng.random() < UNTOUCHED_SHARE
    has_subject = bool(rng.random() < SUBJECT_SHARE)

    def draw(steps: Sequence[_Step], possible: bool = True) -> tuple[str, float]:
        # Always drawn, used or not: what one attribute gets must not shift the others.
        step = steps[rng.choice(len(steps), p=[step.weight for step in steps])]
        share = rng.random()
        if untouched or not possible:
            step = steps[0]
        return step.label, step.low + (step.high - step.low) * share

    exposure, stops = draw(_EXPOSURE)
    saturation, gain = draw(_SATURATION)
    level, degrees = draw(_LEVEL)
    integrity, cut = draw(_INTEGRITY, has_subject)
    subject, subject_pieces = draw(_SUBJECT_CLUTTER, has_subject)
    background, background_pieces = draw(_BACKGROUND_CLUTTER)
    _, contrast = draw(_CONTRAST)
    _, off_centre = draw(_OFF_CENTRE, has_subject)
    clipped = 0.0
    blown_out = rng.random() < _CLIPPED_SHARE
    if blown_out and exposure in _CLIPPED:
        clipped, stops = float(rng.uniform(*_CLIPPED[exposure])), 0.0
    clarity = _CLARITY[0 if untouched else rng.choice(len(_CLARITY), p=[step.weight for step in _CLARITY])]
    severities = Severities(
        **_unclear(clarity, rng),
        exposure_ev=stops,
        clipped=clipped,
        saturation_gain=gain,
        contrast_gain=contrast,
        tilt_deg=degrees if rng.random() < 0.5 else -degrees,
        cut=cut,
        off_centre=off_centre,
        subject_pieces=round(subject_pieces),
        background_pieces=round(background_pieces),
    )
    return Verdict(
        severities, has_subject, integrity, subject, background, level, clarity.label, exposure, saturation
    )


def _unclear(step: _Unclear, rng: np.random.Generator) -> dict[str, Any]:
    """Draw what makes a picture unclear: one cause that earns the label, sometimes a weaker second one."""
    names, shares = [name for name, _ in _CAUSES], [share for _, share in _CAUSES]
    first, second = rng.choice(names, size=2, replace=False, p=shares)
    kinds, kind_shares = [kind for kind, _ in _BLUR_KINDS], [share for _, share in _BLUR_KINDS]
    causes = {first: step}
    if rng.random() < _SECOND_CAUSE_SHARE and step.label != "clear":
        causes[second] = _CLARITY[_CLARITY.index(step) - 1]
    untouched = _CLARITY[0]
    return {
        "blur_px": float(rng.uniform(*causes.get("blur", untouched).blur_px)),
        "blur_kind": str(rng.choice(kinds, p=kind_shares)),
        "noise_levels": float(rng.uniform(*causes.get("noise", untouched).noise_levels)),
        "jpeg_quality": int(rng.integers(*causes.get("jpeg", untouched).jpeg_quality, endpoint=True)),
    }


def unclear_causes(severities: Severities) -> dict[str, float]:
    """What makes a picture unclear, by cause: 0 = untouched, 1 = the worst that is sampled."""
    return {
        "blur": _share(math.log1p(severities.blur_px), math.log1p(5.0)),
        "noise": _share(math.log1p(severities.noise_levels / 10), math.log1p(4.0)),
        "jpeg": _share(math.log(85 / min(severities.jpeg_quality, 85)), math.log(85 / 3)),
    }


def badness(severities: Severities) -> dict[str, float]:
    """Every severity on one scale: 0 = untouched, 1 = the worst that is sampled."""
    stops, gain = severities.exposure_ev, severities.saturation_gain
    return {
        "unclear": max(unclear_causes(severities).values()),
        "exposure": max(_share(stops, 2.4), _share(-stops, 3.1), _share(severities.clipped, 0.45)),
        "saturation": _share(gain - 1, 2.7) if gain > 1 else _share(1 - gain, 1.0),
        "contrast": _share(1 - severities.contrast_gain, 0.7),
        "tilt": _share(abs(severities.tilt_deg) - LEVEL_DEG, 19.0),
        "cut": _share(severities.cut, 0.65),
        "off_centre": _share(severities.off_centre, 0.8),
        "subject_clutter": _share(severities.subject_pieces, 11.0),
        "background_clutter": _share(severities.background_pieces, 16.0),
    }


_COMPOSITION = {
    "tilt": 0.4,
    "off_centre": 0.45,
    "cut": 0.6,
    "subject_clutter": 0.25,
    "background_clutter": 0.2,
}
_EYE_CATCHING = {"unclear": 0.6, "exposure": 0.55, "saturation": 0.35, "contrast": 0.5, "cut": 0.3}
_SCORE = {
    "unclear": 0.65,
    "exposure": 0.6,
    "saturation": 0.4,
    "contrast": 0.3,
    "tilt": 0.2,
    "off_centre": 0.1,
    "cut": 0.4,
    "subject_clutter": 0.25,
    "background_clutter": 0.2,
}
"""What the worst of each costs: score = 0.4 + 9.2 · Π (1 − cost · badness) + noise."""


def annotate(verdict: Verdict, image: str, rng: np.random.Generator) -> Annotation:
    """Give all nine evaluated labels and a score in 0–10 (native scale of the demo)."""
    bad = badness(verdict.severities)

    def integer(costs: dict[str, float]) -> int:
        value = 1 + 9 * _kept(bad, costs) + rng.normal(0, INTEGER_NOISE)
        return int(np.clip(round(value), 1, 10))

    mos = 0.4 + 9.2 * _kept(bad, _SCORE) + rng.normal(0, MOS_NOISE)
    return Annotation(
        image=image,
        composition=integer(_COMPOSITION),
        eye_catching=integer(_EYE_CATCHING),
        subject_integrity=verdict.subject_integrity,
        subject_clutter=verdict.subject_clutter,
        background_clutter=verdict.background_clutter,
        level_shot=verdict.level_shot,
        image_clarity=verdict.image_clarity,
        exposure=verdict.exposure,
        saturation=verdict.saturation,
        mos=float(np.clip(mos, 0.0, 9.99)),
    )


def _share(value: float, worst: float) -> float:
    return min(max(value / worst, 0.0), 1.0)


def _kept(bad: dict[str, float], costs: dict[str, float]) -> float:
    return float(np.prod([1 - cost * bad[name] for name, cost in costs.items()]))
