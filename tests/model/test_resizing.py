from __future__ import annotations

import hashlib
import io
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.images import decode_image, inspect_image
from model.resizing import PILLOW, RESIZES, TORCH
from schemas.manifest import ImageRule
from tests.odd_files import encoded, picture


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def by_both(image, size, box=None):
    return (RESIZES[decoder](image, size, box) for decoder in (PILLOW, TORCH))


@given(
    shrink=st.tuples(st.floats(1, 8), st.floats(1, 8)),
    columns=st.integers(1, 12),
    rows=st.integers(1, 12),
    eighths=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
@settings(max_examples=200, deadline=None)
def test_torch_gives_pillows_pixels_to_two_grey_levels(shrink, columns, rows, eighths):
    size = (28 * columns, 28 * rows)
    width, height = (math.ceil(side * by) + 1 for side, by in zip(size, shrink, strict=True))
    image = noise(width, height)
    box = (0, 0, width - eighths[0] / 8, height - eighths[1] / 8)
    pillows, torchs = by_both(image, size, box)
    distance = np.abs(pillows.astype(int) - torchs.astype(int))
    assert torchs.shape == (size[1], size[0], 3)
    assert distance.max() <= 2
    assert distance.mean() < 0.02


def test_a_few_pixels_enlarged_many_times_differ_by_a_few_grey_levels():
    for seed in range(20):
        pillows, torchs = by_both(noise(2, 201, seed), (28, 224), (0, 0, 1.875, 200.5))
        assert np.abs(pillows.astype(int) - torchs.astype(int)).max() <= 5


def test_a_photograph_differs_by_one_grey_level_in_few_values():
    pillows, torchs = by_both(picture(1600, 1200), (504, 392))
    distance = np.abs(pillows.astype(int) - torchs.astype(int))
    assert distance.max() <= 1
    assert distance.mean() < 0.01


def test_a_large_picture_in_several_pieces_of_memory_is_resized_like_a_small_one(monkeypatch):
    image, size = noise(500, 400), (168, 140)
    whole = RESIZES[TORCH](image, size, None)
    monkeypatch.setattr(type(image), "__arrow_c_array__", in_pieces)
    assert np.array_equal(RESIZES[TORCH](image, size, None), whole)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="blocks"):  # as Pillow says of one that is
        Image.new("RGB", (4000, 3000)).__arrow_c_array__()


def test_padded_lines_are_not_taken_for_pixels():
    image, size = noise(403, 300), (168, 140)
    expected = RESIZES[TORCH](image, size, None)
    Image.core.set_alignment(64)
    try:
        padded = image.copy()
        assert np.array_equal(RESIZES[TORCH](padded, size, None), expected)
    finally:
        Image.core.set_alignment(1)


def test_running_out_of_memory_is_told_as_such(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("torch.nn.functional.interpolate", fails)
    with pytest.raises(MemoryError):
        RESIZES[TORCH](noise(56, 56), (28, 28), None)


def in_pieces(*_):
    raise ValueError("Image is in multiple array blocks")


@pytest.mark.parametrize("decoder", RESIZES)
def test_a_picture_of_the_right_size_stays_as_it_is(decoder):
    image = noise(56, 84)
    assert np.array_equal(RESIZES[decoder](image, (56, 84), None), np.asarray(image))


def test_a_part_that_does_not_begin_at_the_corner_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="corner"):
        RESIZES[TORCH](noise(56, 56), (28, 28), (1, 0, 56, 56))


PROGRAM = """
import hashlib, numpy, torch
from PIL import Image
from model.resizing import RESIZES
torch.set_num_threads({threads})
values = numpy.random.default_rng(0).integers(0, 256, (301, 403, 3), dtype=numpy.uint8)
found = RESIZES["torch-reduced-2x/2"](Image.fromarray(values), (112, 84), (0, 0, 402.5, 300.25))
print(hashlib.sha256(found.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_numbers_depend_neither_on_vector_instructions_nor_on_threads(capability):
    def run(threads: int, **environment: str) -> str:
        command = [sys.executable, "-c", PROGRAM.format(threads=threads)]
        return subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    own = RESIZES[TORCH](noise(403, 301), (112, 84), (0, 0, 402.5, 300.25))
    assert run(2, ATEN_CPU_CAPABILITY=capability) == hashlib.sha256(own.tobytes()).hexdigest()


def test_threads_get_what_one_thread_gets():
    image, size = noise(500, 400), (168, 140)
    alone = RESIZES[TORCH](image, size, None)
    together = threading.Barrier(4)

    def resized(_: int) -> np.ndarray:
        together.wait()
        return RESIZES[TORCH](image, size, None)

    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(alone, one) for one in pool.map(resized, range(4)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_manifest_says_by_which_program_a_picture_is_resized(kind):
    photo = picture(320, 240)
    data = encoded(photo, kind)
    facts = inspect_image(data)
    for decoder in RESIZES:
        rule = ImageRule(min_pixels=784, max_pixels=250 * 250, image_decoder=decoder)
        with Image.open(io.BytesIO(data)) as image:
            height, width, _ = decode_image(data, facts, rule).shape
            expected = RESIZES[decoder](image.convert("RGB"), (width, height), None)
        assert np.array_equal(decode_image(data, facts, rule), expected)
