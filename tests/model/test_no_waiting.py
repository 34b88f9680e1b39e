"""Between pixels handed over and decisions returned the host asks the device for nothing.

On a CPU by watching operations; and on the meta device, which has no numbers to look at, and to which every
copy from the host must be one that waits for nobody.
"""

from __future__ import annotations

import pytest
import torch

from model.decoding import SlotDecoder
from model.ragged import ImageBatch
from tests.model.teacher import random_images
from tests.model.test_graphs import GRIDS, SETTINGS, made_lean
from tests.model.watching import NoLooking

WITHOUT_TEXT = [name for name in SETTINGS if name not in ("reasons", "prose")]


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_nothing_looks_at_numbers(name: str) -> None:
    made = made_lean(**SETTINGS[name])
    decoder = SlotDecoder(made.model, made.prompt, made.program)
    decoder.trims = False  # as on a GPU
    images = random_images(GRIDS, contexts=[(7, 8), (), (), (), (9,)])
    expected = decoder.decode(images)  # the prefix, once an adapter, does take a look
    with NoLooking() as watched:
        found = decoder.decode(images)
    assert watched.seen > 500
    assert torch.equal(found.format_mass, expected.format_mass)


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_far_from_the_host_everything_it_knows_goes_over_in_two_copies(name: str) -> None:
    made = made_lean(**SETTINGS[name])
    there = torch.device("meta")
    decoder = SlotDecoder(made.model.to(there), made.prompt, made.program)
    images = random_images(GRIDS, contexts=[(7, 8), (), (), (), (9,)])
    images = ImageBatch(images.patches.to(there), images.grids, images.contexts)
    decoder.decode(images)
    with NoLooking() as watched:
        found = decoder.decode(images)
    assert len(watched.sent) == 2
    assert found.format_mass.device == there
    assert found.format_mass.shape == (len(GRIDS),)


def test_the_watch_sees_what_it_is_for() -> None:
    numbers = torch.arange(4.0)
    looks = (
        lambda: float(numbers[0]),
        lambda: numbers[numbers > 1],
        lambda: torch.nn.functional.one_hot(numbers.long()),
        lambda: numbers.masked_scatter(numbers > 1, numbers),
        lambda: bool(numbers.any()),
        lambda: numbers.to("meta"),
        lambda: torch.nonzero(numbers),
    )
    for look in looks:
        with pytest.raises(AssertionError, match="wait"), NoLooking():
            look()
    there = torch.zeros(3, device="meta")
    for look in (there.tolist, there.cpu, lambda: there[there > 0], lambda: bool(there.any())):
        with pytest.raises((AssertionError, RuntimeError)), NoLooking():
            look()
