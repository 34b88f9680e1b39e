from __future__ import annotations

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from model.resizing import PILLOW
from schemas.manifest import ImageRule
from tests.benchmarks.pictures import jpegs, read_photographs
from tests.benchmarks.preprocessing import measure_preprocessing, normalised_of, processed


def test_both_give_the_same_patches_where_nothing_is_decoded_smaller() -> None:
    (data,) = jpegs(read_photographs(None, 1), 150, 200)
    rule = ImageRule(min_pixels=784, max_pixels=150 * 200, image_decoder=PILLOW)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": rule.max_pixels})
    ours, theirs = normalised_of(data, rule).numpy(), processed(data, processor)["pixel_values"].numpy()
    assert ours.shape == theirs.shape
    assert np.allclose(ours, theirs, atol=1e-5)


def test_every_size_is_measured_at_every_budget() -> None:
    found = measure_preprocessing([0.05, 0.1], [4, 16], None, images=2, runs=1)
    assert found["images"] == 2
    assert [(row["megapixels"], row["visual_tokens"]) for row in found["rows"]] == [
        (0.05, 4), (0.05, 16), (0.1, 4), (0.1, 16),
    ]  # fmt: skip
    for row in found["rows"]:
        ratio = row["patches_images_per_s"] / row["transformers_images_per_s"]
        assert row["ratio"] == pytest.approx(ratio, rel=1e-2)
