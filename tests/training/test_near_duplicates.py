from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from tests.odd_files import encoded, picture
from training.near_duplicates import THRESHOLD_BITS, near_pairs, perceptual_hash


def hash_of(image: Image.Image) -> int:
    found = perceptual_hash(np.asarray(image.convert("RGB")))
    assert found is not None
    return found


def distance(first: int, second: int) -> int:
    return (first ^ second).bit_count()


def test_another_size_compression_and_mode_of_one_picture_are_close_and_other_pictures_far() -> None:
    original = picture(320, 240, seed=1)
    small = original.resize((160, 120))
    compressed = Image.open(io.BytesIO(encoded(original, "JPEG", quality=30)))
    for copy in (small, compressed, original.convert("L")):
        assert distance(hash_of(original), hash_of(copy)) <= THRESHOLD_BITS
    for seed in range(2, 12):
        assert distance(hash_of(original), hash_of(picture(320, 240, seed))) > THRESHOLD_BITS


def test_a_picture_of_one_colour_has_no_hash() -> None:
    assert perceptual_hash(np.full((60, 80, 3), 7, np.uint8)) is None


@pytest.mark.parametrize("block_pairs", [3, 500_000])
def test_pairs_are_those_that_comparing_all_with_all_finds(
    block_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.near_duplicates._BLOCK_PAIRS", block_pairs)
    draw = random.Random(0)
    hashes: list[int | None] = [draw.getrandbits(64) for _ in range(60)]
    for number in range(60):  # copies with up to 8 bits turned, in any place
        copy = hashes[number] or 0
        for bit in draw.sample(range(64), number % 9):
            copy ^= 1 << bit
        hashes.append(copy)
    hashes += [None, None]
    sides = [draw.choice(("train", "train", "train", "validation", "test")) for _ in hashes]
    expected = {
        (first, second)
        for second, b in enumerate(hashes)
        for first, a in enumerate(hashes[:second])
        if a is not None
        and b is not None
        and sides[first] != sides[second]
        and distance(a, b) <= THRESHOLD_BITS
    }
    found = list(near_pairs(hashes, sides))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len(expected) > 10


def test_one_side_alone_has_no_pairs() -> None:
    assert list(near_pairs([5, 5], ["train", "train"])) == []
    assert list(near_pairs([], [])) == list(near_pairs([None, 5], ["train", "test"])) == []
