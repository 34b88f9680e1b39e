from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.toy import toy_images
from training.demo.base import create_base
from training.demo.degradations import Severities
from training.demo.eyes import EyesSettings, teach_to_see, token_zones
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


def test_every_picture_needs_its_severities() -> None:
    model = create_base(learn_tokenizer(), seed=0)
    zones = np.zeros((4, 3, ZONE_SIDE, ZONE_SIDE), np.uint8)
    with pytest.raises(ValueError, match="zip"):
        teach_to_see(model, toy_images(4), [Severities()], zones, SHORT)
