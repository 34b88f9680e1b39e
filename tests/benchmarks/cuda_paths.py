"""What the optimisations give that only a CUDA device has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model import decoding
from model.decoding import SlotDecoder
from model.fp8 import Product, fp8_product, use_fp8
from model.graphs import CudaRecorder, Recorder
from model.staging import SentPixels
from schemas.errors import ConfigurationError
from tests.benchmarks.comparing import Bench, Comparison, Optimisation
from tests.benchmarks.generating import image_batch
from tests.benchmarks.swapping import linears, swapped

_MICRO_BATCHES = 3
_SHAPES = 16
"""Micro-batches of different sizes, at most: without buckets every one is a recording."""


def _needs_cuda(bench: Bench) -> str | None:
    return None if bench.device.type == "cuda" else "needs a CUDA device"


def graphs(
    bench: Bench, stack: ExitStack, recorder: Callable[[torch.device], Recorder] = CudaRecorder
) -> Comparison:
    """Recorded passes beside passes that are launched anew."""
    recorded = recording_decoder(bench, recorder)
    return Comparison(
        partial(recorded.decode, bench.batch), partial(bench.scorer.decoder.decode, bench.batch)
    )


def buckets(
    bench: Bench, stack: ExitStack, recorder: Callable[[torch.device], Recorder] = CudaRecorder
) -> Comparison:
    """Micro-batches of many sizes, recordings included."""
    sizes = range(1, min(len(bench.images), _SHAPES) + 1)
    batches = [image_batch(bench.images[:size], bench.device) for size in sizes]

    def first_run() -> None:
        fresh = recording_decoder(bench, recorder)
        for batch in batches:
            fresh.decode(batch)

    def exact_shapes() -> ExitStack:
        exact = ExitStack()
        for name in ("bucket_rows", "bucket_columns"):
            exact.enter_context(swapped(decoding, name, lambda count: count))
        return exact

    return Comparison(first_run, first_run, exact_shapes)


def recording_decoder(bench: Bench, recorder: Callable[[torch.device], Recorder]) -> SlotDecoder:
    """The scorer's decoder as one that records."""
    plain = bench.scorer.decoder
    return SlotDecoder(
        plain.model, plain.prompt, plain.program, plain.score_head, recorder=recorder(bench.device)
    )


def staging(bench: Bench, stack: ExitStack) -> Comparison:
    """Pixels sent from page-locked memory while the micro-batch before is computed, beside plain copies."""
    scorer, pool = bench.scorer, stack.enter_context(ThreadPoolExecutor(1))

    def ahead() -> None:
        coming = pool.submit(scorer.stage, bench.images)
        for _ in range(_MICRO_BATCHES):
            staged = coming.result()
            coming = pool.submit(scorer.stage, bench.images)
            scorer.predict(staged)
        coming.result()

    def in_turn() -> None:
        for _ in range(_MICRO_BATCHES):
            scorer.predict(bench.images)

    return Comparison(ahead, in_turn, lambda: swapped(scorer, "_stage", _PlainCopies(bench.device)))


class _PlainCopies:
    """A ``PixelStage`` that waits for every copy, from memory as it comes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, pictures: Sequence[NDArray[np.uint8]]) -> SentPixels:
        return SentPixels(tuple(torch.from_numpy(picture).to(self._device) for picture in pictures))


def fp8(bench: Bench, stack: ExitStack, product: Product | None = None) -> Comparison:
    """Linear layers in FP8 beside the full number format; the model holds both while this runs."""
    tower = bench.scorer.decoder.model.model.language_model
    full: dict[str, nn.Module] = {
        name: module for name, module in tower.named_modules() if isinstance(module, nn.Linear)
    }
    stack.enter_context(linears(tower, full))  # puts them back at the end
    use_fp8(bench.scorer.decoder.model, product or fp8_product(bench.device, bench.scorer.dtype))
    return Comparison(bench.decide, bench.decide, lambda: linears(tower, full))


def _unfit_for_fp8(bench: Bench) -> str | None:
    try:
        fp8_product(bench.device, bench.scorer.dtype)
    except ConfigurationError as error:
        return "; ".join(error.reasons)
    return None


CUDA_PATHS = (
    Optimisation(
        "slot passes as CUDA graphs (off by default)", "launched anew", "micro-batch", graphs,
        "launches cost 8 ms an image at 64 images", _needs_cuda,
    ),
    Optimisation(
        "shapes in buckets", "one recording for every shape",
        f"micro-batches of 1 to {_SHAPES} images, recordings included", buckets, None, _needs_cuda,
    ),
    Optimisation(
        "pixels from page-locked memory, sent ahead", "plain copies, waited for",
        f"{_MICRO_BATCHES} micro-batches", staging, None, _needs_cuda,
    ),
    Optimisation(
        "FP8 (off by default)", "the full number format", "micro-batch", fp8, None, _unfit_for_fp8
    ),
)  # fmt: skip
