from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.backbone import EMBEDDED_BASE, load_tokenizer
from model.tokens import TextEncoder
from schemas.manifest import Conversation
from training.demo.captions import _DEGREES, _FAULTS, _OPENINGS, caption, informative_context
from training.demo.degradations import Severities
from training.demo.labels import badness, sample_verdict

WORST = Severities(
    jpeg_quality=3,
    exposure_ev=-3.2,
    saturation_gain=0.0,
    contrast_gain=0.3,
    tilt_deg=25.0,
    cut=0.7,
    off_centre=0.8,
    subject_pieces=11,
    background_pieces=16,
)


def _said(severities: Severities) -> set[str]:
    return {caption(severities, np.random.default_rng(seed)) for seed in range(60)}


@pytest.mark.parametrize(
    ("severities", "words"),
    [
        (Severities(blur_px=1.2), {"slightly blurry", "a bit out of focus"}),
        (Severities(blur_px=2.5), {"blurry", "clearly out of focus"}),
        (Severities(blur_px=6.0), {"very blurry", "far too out of focus"}),
        (Severities(blur_px=1.2, noise_levels=50.0), {"very noisy", "far too grainy"}),
        (Severities(exposure_ev=-3.0), {"far too dark", "very underexposed"}),
        (Severities(exposure_ev=1.0), {"slightly bright", "a bit overexposed"}),
        (Severities(clipped=0.5), {"far too bright", "very overexposed"}),
        (Severities(saturation_gain=0.4), {"clearly pale", "undersaturated"}),
        (Severities(saturation_gain=1.8), {"slightly colourful", "a bit oversaturated"}),
        (Severities(cut=0.7), {"far too cropped", "subject very cut off"}),
        (Severities(background_pieces=5), {"background slightly cluttered", "background a bit busy"}),
    ],
)
def test_a_caption_names_the_fault_and_how_much_in_several_wordings(
    severities: Severities, words: set[str]
) -> None:
    faults = {said.partition(": ")[2] for said in _said(severities)}
    assert words <= faults
    assert not any("," in fault for fault in faults)


def test_what_was_not_done_is_not_named() -> None:
    faultless = replace(Severities(), tilt_deg=0.9, off_centre=0.1, jpeg_quality=86)
    assert {said.partition(": ")[2] for said in _said(faultless)} == {"nothing wrong", "as it should be"}


def test_a_caption_names_as_many_faults_as_labels_see() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        severities = replace(sample_verdict(rng).severities, off_centre=0.0)
        faults = sum(bad > 0 for bad in badness(severities).values())
        assert max(1, faults) == caption(severities, rng).count(",") + 1


def test_the_longest_caption_fits_an_adapters_cap() -> None:
    assert all(said.count(",") == 8 for said in _said(WORST))
    encoder = TextEncoder(load_tokenizer(EMBEDDED_BASE))

    def most(texts: list[str]) -> int:
        return max(len(encoder.encode(text)) for text in texts)

    degrees = [much for _, words in _DEGREES for much in words]
    longest = {
        fault: most([f", {words.format(much=much)}" for words in wordings for much in degrees])
        for fault, wordings in _FAULTS.items()
    }
    for one_of in (("blur", "noise", "jpeg"), ("dark", "bright"), ("pale", "colourful")):
        longest[one_of[0]] = max(longest.pop(fault) for fault in one_of)
    cap = Conversation.model_fields["context_max_tokens"].default
    assert most([f"{opening}:" for opening in _OPENINGS]) + sum(longest.values()) <= cap


def test_one_picture_of_every_two_has_a_caption_and_the_seed_says_which() -> None:
    def having(seed: int, count: int = 60) -> list[bool]:
        return [informative_context(WORST, number, seed) is not None for number in range(count)]

    pairs = np.array(having(1)).reshape(-1, 2)
    assert (pairs.sum(axis=1) == 1).all()
    assert 0 < pairs[:, 0].sum() < 30
    assert having(1) == having(1) != having(2)


def test_a_pictures_caption_is_the_same_every_time_and_another_by_seed_and_number() -> None:
    numbers = [number for number in range(60) if informative_context(WORST, number, 1)]
    said = [informative_context(WORST, number, 1) for number in numbers]
    assert said == [informative_context(WORST, number, 1) for number in numbers]
    assert len(set(said)) == len(said)
