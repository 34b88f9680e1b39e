"""Captions that tell what was done to a picture and how much: a context that is worth reading.

The demo's own contexts ("breakfast", "IMG_4711") say nothing about quality: a model learns to pass over them.
These are their counterpart, for measuring whether an adapter uses what it is told about an image.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from training.demo.degradations import Severities
from training.demo.labels import badness, unclear_causes

Captions = Literal["uninformative", "informative"]

_NAMED_FROM = 0.2
"""Badness from which on a fault is named; no label but the best one lies below it."""
_DEGREES = ((0.55, ("slightly", "a bit")), (0.85, ("", "clearly")), (1.0, ("very", "far too")))
"""Up to which badness which words say how much; the ends lie in gaps between labels."""
# Short in the embedded model's tokens: an adapter cuts a context after its cap (64 tokens).
_FAULTS = {
    "blur": ("{much} blurry", "{much} out of focus"),
    "noise": ("{much} noisy", "{much} grainy"),
    "jpeg": ("{much} compressed", "{much} blocky"),
    "dark": ("{much} dark", "{much} underexposed"),
    "bright": ("{much} bright", "{much} overexposed"),
    "pale": ("{much} pale", "{much} undersaturated"),
    "colourful": ("{much} colourful", "{much} oversaturated"),
    "contrast": ("{much} flat", "{much} hazy"),
    "tilt": ("{much} tilted", "{much} off level"),
    "cut": ("{much} cropped", "subject {much} cut off"),
    "off_centre": ("{much} off centre", "subject {much} off centre"),
    "subject_clutter": ("subject {much} cluttered", "subject {much} busy"),
    "background_clutter": ("background {much} cluttered", "background {much} busy"),
}
_OPENINGS = ("a photograph", "photo", "a picture", "image")
_FAULTLESS = ("nothing wrong", "as it should be")
# Part the streams of random numbers from the picture's own, [seed, number]: pictures must not change.
_HALF, _WORDS = 1, 2


def informative_context(severities: Severities, number: int, seed: int) -> str | None:
    """The caption of a picture of a data set; None for the half that has none.

    Of the pictures 2k and 2k + 1 one has a caption, drawn by the seed.

    Args:
        severities: What was done to the picture.
        number: Of the picture in its data set.
        seed: Of the data set.
    """
    if number % 2 != np.random.default_rng([seed, number // 2, _HALF]).integers(2):
        return None
    return caption(severities, np.random.default_rng([seed, number, _WORDS]))


def caption(severities: Severities, rng: np.random.Generator) -> str:
    """Name every fault and how bad it is, in words and an order that are drawn.

    Args:
        severities: What was done to the picture.
        rng: Draws the words; what they say depends on the severities alone.
    """

    def one_of(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    named = [
        " ".join(one_of(_FAULTS[fault]).format(much=one_of(_degree(bad))).split())
        for fault, bad in _faults(severities).items()
        if bad >= _NAMED_FROM
    ]
    said = [named[place] for place in rng.permutation(len(named))] or [one_of(_FAULTLESS)]
    return f"{one_of(_OPENINGS)}: {', '.join(said)}"


def _degree(bad: float) -> tuple[str, ...]:
    return next(words for most, words in _DEGREES if bad <= most)


def _faults(severities: Severities) -> dict[str, float]:
    """Badness by fault; of what makes a picture unclear only the worst, as for its label."""
    bad = badness(severities)
    causes = unclear_causes(severities)
    too_bright = severities.exposure_ev > 0 or severities.clipped > 0
    faults = {
        max(causes, key=causes.__getitem__): bad.pop("unclear"),
        "bright" if too_bright else "dark": bad.pop("exposure"),
        "colourful" if severities.saturation_gain > 1 else "pale": bad.pop("saturation"),
    }
    return faults | bad
