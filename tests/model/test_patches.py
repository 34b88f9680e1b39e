from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from model.images import decode_image, inspect_image
from model.patches import grid_thw, normalised_patches, patch_rows, visual_tokens
from model.resizing import PILLOW
from schemas.manifest import ImageRule
from tests.odd_files import encoded, picture

RULE = ImageRule(min_pixels=56 * 56, max_pixels=168 * 168, image_decoder=PILLOW)


@pytest.mark.parametrize("size", [(28, 28), (300, 200), (200, 300), (37, 411), (168, 168), (640, 479)])
def test_patches_equal_those_of_transformers_processor(size):
    data = encoded(picture(*size), "PNG")
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": RULE.min_pixels, "longest_edge": RULE.max_pixels}
    )
    theirs = processor(images=[Image.open(io.BytesIO(data)).convert("RGB")], return_tensors="pt")
    pixels = decode_image(data, inspect_image(data), RULE)
    ours = normalised_patches(pixels)
    assert theirs["image_grid_thw"].tolist() == [list(grid_thw(*pixels.shape[:2]))]
    assert ours.shape == (4 * visual_tokens(*pixels.shape[:2]), 1176)
    # Stated tolerance: 1e-5 on values within ±2.7; the pixels themselves are equal.
    torch.testing.assert_close(ours, theirs["pixel_values"], rtol=0, atol=1e-5)


def test_tensors_and_arrays_give_the_same_patches():
    pixels = np.array(picture(56, 28))
    assert torch.equal(normalised_patches(pixels), normalised_patches(torch.tensor(pixels)))


def test_rows_hold_the_pixels_untouched():
    pixels = torch.randint(0, 256, (56, 84, 3), dtype=torch.uint8)
    rows = patch_rows(pixels)
    assert rows.dtype == torch.uint8
    patches = rows.view(2, 3, 2, 2, 3, 14, 14)
    # Token (1, 2), the upper right of its four patches.
    assert torch.equal(patches[1, 2, 0, 1], pixels[28:42, 70:84].permute(2, 0, 1))


def test_pixels_that_are_no_whole_patches_or_no_bytes_are_refused():
    with pytest.raises(ValueError, match="multiples of 28"):
        normalised_patches(torch.zeros(28, 42, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        normalised_patches(torch.zeros(28, 28, 3))
