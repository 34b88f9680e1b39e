"""``preprocessing``: JPEG bytes to what the model takes, on one core, beside transformers' processor."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from model.images import decode_image, inspect_image
from model.patches import grid_thw, normalised, patch_rows
from schemas.manifest import ImageRule
from tests.benchmarks.devices import alternating, medians, rounded
from tests.benchmarks.pictures import jpegs, read_photographs, size_of

_ASPECT = 3 / 4
_CPU = torch.device("cpu")


def measure_preprocessing(
    megapixels: Sequence[float], visual_tokens: Sequence[int], photos: Path | None, images: int, runs: int
) -> dict[str, Any]:
    """Measure every picture size at every pixel budget, in one thread.

    Each side ends with what its vision tower takes: ours with patches of bytes (``patches``), since the
    normalisation is folded into the weights; transformers' processor with normalised numbers. ``normalised``
    is what ours cost if it ended there, too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pictures = read_photographs(photos, images)
        rows = []
        for size in megapixels:
            files = jpegs(pictures, *size_of(size, _ASPECT))
            rows += [_row(files, size, tokens, runs) for tokens in visual_tokens]
    finally:
        torch.set_num_threads(threads)
    return {"images": len(pictures), "rows": rows}


def _row(files: Sequence[bytes], size: float, tokens: int, runs: int) -> dict[str, Any]:
    rule = ImageRule(min_pixels=784, max_pixels=tokens * 784)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": rule.max_pixels})
    calls: dict[str, Callable[[], Any]] = {
        "patches": partial(_each, partial(patches_of, rule=rule), files),
        "normalised": partial(_each, partial(normalised_of, rule=rule), files),
        "transformers": partial(_each, partial(processed, processor=processor), files),
    }
    _check_grids(files[0], rule, processor)
    seconds = medians(alternating(calls, runs, _CPU))
    speeds = {name: rounded(len(files) / spent) for name, spent in seconds.items()}
    return {
        "megapixels": size,
        "file_kb": rounded(statistics.mean(map(len, files)) / 1000),
        "visual_tokens": tokens,
        **{f"{name}_images_per_s": speed for name, speed in speeds.items()},
        "ratio": rounded(seconds["transformers"] / seconds["patches"]),
        "ratio_normalised": rounded(seconds["transformers"] / seconds["normalised"]),
    }


def pixels_of(data: bytes, rule: ImageRule) -> NDArray[np.uint8]:
    """What ``Scorer.prepare`` does with a file."""
    return decode_image(data, inspect_image(data), rule)


def patches_of(data: bytes, rule: ImageRule) -> torch.Tensor:
    """That, cut up as the vision tower takes it."""
    return patch_rows(torch.from_numpy(pixels_of(data, rule)))


def normalised_of(data: bytes, rule: ImageRule) -> torch.Tensor:
    """The same as numbers, which ours never makes."""
    return normalised(patches_of(data, rule))


def processed(data: bytes, processor: Any) -> Any:
    """The same by transformers' processor, as its documentation calls it."""
    return processor(images=Image.open(io.BytesIO(data)), return_tensors="pt")


def _each(call: Callable[[bytes], Any], files: Sequence[bytes]) -> None:
    for data in files:
        call(data)


def _check_grids(data: bytes, rule: ImageRule, processor: Any) -> None:
    ours = grid_thw(*pixels_of(data, rule).shape[:2])
    theirs = tuple(processed(data, processor)["image_grid_thw"][0].tolist())
    if ours != theirs:
        raise RuntimeError(f"the sizes differ ({ours} and {theirs} patches): no comparison")
