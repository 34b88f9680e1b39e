from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch

from schemas.manifest import ImageRule
from tests.training.toy import toy_images
from training.demo.base import create_base
from training.demo.degradations import Severities
from training.demo.eyes import EyesPhase, severity_numbers, teach_to_see
from training.demo.lessons import Lesson
from training.demo.pictures import ZONES
from training.demo.tokenizer import learn_tokenizer

SHORT = EyesPhase(1, steps=2, learning_rate=1e-3, vision_learning_rate=3e-4, batch_size=3)


def _lessons(different: int = 4) -> Iterator[Lesson]:
    images = toy_images(different)
    for number in count():
        image = images[number % different]
        tokens = image.pixels.shape[0] * image.pixels.shape[1] // 28**2
        blurred = Severities(blur_px=float(number % different))
        yield Lesson(image.pixels, image.annotation, blurred, np.zeros((tokens, ZONES), np.uint8))


def _taught(*phases: EyesPhase) -> dict[str, torch.Tensor]:
    model = create_base(learn_tokenizer(), seed=0)
    pictures = _lessons()
    losses = teach_to_see(model, [(phase, pictures) for phase in phases], seed=1)
    assert len(losses) == sum(phase.steps for phase in phases)
    return model.state_dict()


def test_only_the_vision_tower_changes_and_the_same_seed_gives_the_same_weights() -> None:
    before = create_base(learn_tokenizer(), seed=0).state_dict()
    after, again = _taught(SHORT), _taught(SHORT)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".visual." in name for name in changed)
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_a_second_phase_goes_on_where_the_first_ended_and_what_measures_stays() -> None:
    one, both = _taught(SHORT), _taught(SHORT, SHORT)
    steps = {name: (both[name] - one[name]).abs().max() for name in one if ".visual." in name}
    assert 0 < steps["model.visual.blocks.2.mlp.fc1.weight"] < 0.1
    measuring = ("visual.patch_embed.", "visual.blocks.0.", "visual.blocks.1.")
    still = {name for name, step in steps.items() if step == 0}
    assert still == {name for name in steps if any(part in name for part in measuring)}


def test_what_is_asked_is_what_was_done() -> None:
    annotation = toy_images(1).annotations[0]
    done = Severities(blur_px=math.expm1(1.9), exposure_ev=-3.0, tilt_deg=-20.0, cut=0.5, subject_pieces=11)
    numbers = severity_numbers(done, annotation)
    assert numbers[0] == pytest.approx(1.0)
    assert numbers[3:5] == [-1.0, 0.0]
    assert numbers[7:9] == [1.0, 0.5]
    assert numbers[10] == 1.0
    assert numbers[-1] == pytest.approx((annotation.mos or 0) / 10)
    untouched = severity_numbers(Severities(), annotation)
    assert untouched[:12] == pytest.approx([0.0] * 12)


def test_the_loss_falls_on_a_few_pictures() -> None:
    phase = EyesPhase(1, steps=40, learning_rate=3e-3, vision_learning_rate=1e-3, batch_size=4)
    model = create_base(learn_tokenizer(), seed=0)
    losses = teach_to_see(model, [(phase, _lessons())], seed=1)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_phase_on_smaller_pictures_has_its_share_of_the_budget() -> None:
    full = ImageRule(min_pixels=25088, max_pixels=112896)
    quarter = EyesPhase(1 / 4, steps=2).rule(full)
    assert (quarter.min_pixels, quarter.max_pixels) == (6272, 28224)
    assert EyesPhase(1, steps=2).rule(full) == full
