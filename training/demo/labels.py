"""From severities to labels: the synthetic "opinion" of the demo, stated in full.

Nobody looked at these pictures. A label says what was done to a photograph; the two integers and the score
are formulas over the same severities, with a little noise. The model that learns them knows these formulas
and nothing of human taste.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.annotations import Annotation
from training.demo.degradations import Severities

UNTOUCHED_SHARE = 0.12
"""Share of pictures that nothing is done to."""

MOS_NOISE, INTEGER_NOISE = 0.15, 0.3
"""Standard deviation of the noise on the score (of 10) and, before rounding, on the integers."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One label of an attribute and the severities that earn it; gaps between steps are left out."""

    label: str
    low: float
    high: float
    weight: float


_CLARITY = (
    _Step("clear", 0.0, 0.0, 0.37),
    _Step("slightly blurry", 0.7, 1.1, 0.21),
    _Step("blurry", 1.6, 2.4, 0.21),
    _Step("very blurry", 3.4, 5.0, 0.21),
)
_EXPOSURE = (
    _Step("properly exposed", 0.0, 0.0, 0.36),
    _Step("slightly overexposed", 0.7, 1.1, 0.16),
    _Step("overexposed", 1.7, 2.6, 0.16),
    _Step("slightly underexposed", -1.5, -1.0, 0.16),
    _Step("underexposed", -3.4, -2.3, 0.16),
)
_SATURATION = (
    _Step("properly saturated", 1.0, 1.0, 0.36),
    _Step("slightly oversaturated", 1.6, 1.9, 0.16),
    _Step("oversaturated", 2.6, 4.0, 0.16),
    _Step("slightly undersaturated", 0.35, 0.55, 0.16),
    _Step("undersaturated", 0.0, 0.12, 0.16),
)
_LEVEL = (
    _Step("taken straight", 0.0, 0.0, 0.7),
    _Step("not horizontal", 10.0, 25.0, 0.3),
)
_INTEGRITY = (
    _Step("complete", 0.0, 0.0, 0.7),
    _Step("partially complete (slightly cut off or slightly obscured)", 0.05, 0.10, 0.15),
    _Step("incomplete (mostly cut off or mostly obscured)", 0.22, 0.4, 0.15),
)
_CLUTTER = (
    _Step("uncluttered", 0, 0, 0.7),
    _Step("moderately cluttered", 3, 4, 0.15),
    _Step("cluttered", 9, 14, 0.15),
)
_CONTRAST = (_Step("full", 1.0, 1.0, 0.75), _Step("flat", 0.3, 0.6, 0.25))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The labels that severities earn."""

    severities: Severities
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

    def draw(steps: tuple[_Step, ...]) -> tuple[str, float]:
        weights = np.array([step.weight for step in steps])
        # Always drawn, used or not: what one attribute gets must not shift the others.
        step = steps[rng.choice(len(steps), p=weights / weights.sum())]
        share = rng.random()
        if untouched:
            step = steps[0]
        return step.label, step.low + (step.high - step.low) * share

    clarity, blur_px = draw(_CLARITY)
    exposure, stops = draw(_EXPOSURE)
    saturation, gain = draw(_SATURATION)
    level, degrees = draw(_LEVEL)
    integrity, hidden = draw(_INTEGRITY)
    subject, subject_pieces = draw(_CLUTTER)
    background, background_pieces = draw(_CLUTTER)
    _, contrast = draw(_CONTRAST)
    severities = Severities(
        blur_px=blur_px,
        blur_kind="motion" if rng.random() < 0.25 else "focus",
        exposure_ev=stops,
        saturation_gain=gain,
        contrast_gain=contrast,
        tilt_deg=degrees if rng.random() < 0.5 else -degrees,
        hidden=hidden,
        subject_pieces=round(subject_pieces),
        background_pieces=round(background_pieces),
    )
    return Verdict(severities, integrity, subject, background, level, clarity, exposure, saturation)


def badness(severities: Severities) -> dict[str, float]:
    """Every severity on one scale: 0 = untouched, 1 = the worst that is sampled."""
    stops, gain = severities.exposure_ev, severities.saturation_gain
    return {
        "blur": _share(severities.blur_px, 4.0),
        "exposure": _share(stops, 2.2) if stops > 0 else _share(-stops, 3.0),
        "saturation": _share(gain - 1, 2.5) if gain > 1 else _share(1 - gain, 1.0),
        "contrast": _share(1 - severities.contrast_gain, 0.7),
        "tilt": _share(abs(severities.tilt_deg), 20.0),
        "hidden": _share(severities.hidden, 0.35),
        "subject_clutter": _share(severities.subject_pieces, 12.0),
        "background_clutter": _share(severities.background_pieces, 12.0),
    }


_COMPOSITION = {"tilt": 0.45, "hidden": 0.75, "subject_clutter": 0.5, "background_clutter": 0.4}
_EYE_CATCHING = {"blur": 0.6, "exposure": 0.55, "saturation": 0.35, "contrast": 0.5, "hidden": 0.4}
_SCORE = {
    "blur": 0.65,
    "exposure": 0.6,
    "saturation": 0.4,
    "contrast": 0.3,
    "tilt": 0.2,
    "hidden": 0.5,
    "subject_clutter": 0.3,
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
