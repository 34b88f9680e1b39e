from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.training.toy import toy_images
from training.demo.base import create_base
from training.demo.degradations import Severities
from training.demo.eyes import EyesSettings, severity_numbers, teach_to_see, token_zones
from training.demo.pictures import ZONE_SIDE
from training.demo.tokenizer import learn_tokenizer

SHORT = EyesSettings(steps=2, batch_size=3, learning_rate=1e-3, seed=1)


def _taught(settings: EyesSettings) -> dict[str, torch.Tensor]:
    images = toy_images(4)
    zones = np.zeros((4, 3, ZONE_SIDE, ZONE_SIDE), np.uint8)
    model = create_base(learn_tokenizer(), seed=0)
    teach_to_see(model, images, [Severities(blur_px=float(i)) for i in range(4)], zones, settings)
    return model.state_dict()


def test_only_the_vision_tower_changes_and_the_same_seed_gives_the_same_weights() -> None:
    before = create_base(learn_tokenizer(), seed=0).state_dict()
    after, again = _taught(SHORT), _taught(SHORT)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".visual." in name for name in changed)
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_zones_are_shrunk_to_the_visual_tokens_row_by_row() -> None:
    zones = np.zeros((3, ZONE_SIDE, ZONE_SIDE), np.uint8)
    zones[1, : ZONE_SIDE // 2] = 255  # the upper half
    zones[2, :, ZONE_SIDE // 2 :] = 255  # the right half
    seen = token_zones(zones, (2, 4)).reshape(2, 4, 3)
    assert seen[..., 0].eq(0).all()
    assert seen[0, :, 1].eq(1).all()
    assert seen[1, :, 1].eq(0).all()
    assert seen[:, 2:, 2].eq(1).all()
    assert seen[:, :2, 2].eq(0).all()


def test_what_is_asked_is_what_was_done() -> None:
    annotation = toy_images(1).annotations[0]
    done = Severities(blur_px=math.expm1(1.9), exposure_ev=-3.0, tilt_deg=-20.0, cut=0.5, subject_pieces=9)
    numbers = severity_numbers(done, annotation)
    assert numbers[0] == pytest.approx(1.0)
    assert numbers[3:5] == [-1.0, 0.0]
    assert numbers[7:9] == [1.0, 0.5]
    assert numbers[10] == 1.0
    assert numbers[-1] == pytest.approx((annotation.mos or 0) / 10)
    untouched = severity_numbers(Severities(), annotation)
    assert untouched[:12] == pytest.approx([0.0] * 12)


def test_the_loss_falls_on_a_few_pictures() -> None:
    settings = EyesSettings(steps=40, batch_size=4, learning_rate=3e-3, vision_learning_rate=1e-3, seed=1)
    zones = np.zeros((4, 3, ZONE_SIDE, ZONE_SIDE), np.uint8)
    model = create_base(learn_tokenizer(), seed=0)
    blurs = [Severities(blur_px=float(i)) for i in range(4)]
    losses = teach_to_see(model, toy_images(4), blurs, zones, settings)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_every_picture_needs_its_severities() -> None:
    model = create_base(learn_tokenizer(), seed=0)
    zones = np.zeros((4, 3, ZONE_SIDE, ZONE_SIDE), np.uint8)
    with pytest.raises(ValueError, match="severities"):
        teach_to_see(model, toy_images(4), [Severities()], zones, SHORT)
    with pytest.raises(ValueError, match="zones"):
        teach_to_see(model, toy_images(4), [Severities()] * 4, zones[:3], SHORT)
