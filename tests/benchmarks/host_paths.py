"""What the optimisations of the host give: of its arithmetic, and of what feeds the model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

import model.images
import model.scorer
from model.denormals import flush_denormals
from model.images import decode_image, inspect_image
from model.resizing import PILLOW, TORCH
from schemas.manifest import ImageRule
from tests.benchmarks.bare_scorer import run_bare
from tests.benchmarks.comparing import Bench, Comparison, Optimisation
from tests.benchmarks.pictures import write_files
from tests.benchmarks.swapping import swapped

_MICRO_BATCHES = 3
_NEVER_REDUCED = 10**6
"""Times the final size: more than any picture has."""


def _denormals(bench: Bench, stack: ExitStack) -> Comparison:
    # A thread each: those that torch starts for a thread keep the setting that they began with.
    flushing, plain = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
    flushing.submit(flush_denormals).result()
    plain.submit(torch.set_flush_denormal, False).result()
    return Comparison(
        lambda: flushing.submit(bench.decide).result(),
        lambda: plain.submit(bench.decide).result(),
        lambda: swapped(model.scorer, "flush_denormals", lambda: None),
    )


def _unfit_for_denormals(bench: Bench) -> str | None:
    if bench.device.type != "cpu" or bench.built.shape != "tiny":
        return "only trained weights on a CPU have denormal numbers to flush: --shape tiny"
    return None


def _decode_ahead(bench: Bench, stack: ExitStack) -> Comparison:
    scorer, window = bench.scorer, bench.feeding.window
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    paths = write_files(folder, bench.files, window * _MICRO_BATCHES)

    def in_turn() -> None:
        for begin in range(0, len(paths), window):
            scorer.predict([scorer.prepare(path.read_bytes()) for path in paths[begin : begin + window]])

    return Comparison(lambda: run_bare(scorer, paths, bench.feeding), in_turn)


def _reduced_scale(bench: Bench, stack: ExitStack) -> Comparison:
    decode = _decoding(bench, bench.scorer.manifest.image)
    return Comparison(decode, decode, lambda: swapped(model.images, "REDUCED_MARGIN", _NEVER_REDUCED))


def _resize(bench: Bench, stack: ExitStack) -> Comparison:
    rule = bench.scorer.manifest.image
    by_torch, by_pillow = (
        _decoding(bench, rule.model_copy(update={"image_decoder": name})) for name in (TORCH, PILLOW)
    )
    return Comparison(by_torch, by_pillow)


def _decoding(bench: Bench, rule: ImageRule) -> Callable[[], Any]:
    """One picture after the other, on one core."""
    known = [(data, inspect_image(data)) for data in bench.files]

    def decode() -> None:
        with _one_thread():
            for data, facts in known:
                decode_image(data, facts, rule)

    return decode


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


HOST_PATHS = (
    Optimisation(
        "denormal numbers flushed", "kept", "micro-batch", _denormals,
        "2.8 → 0.65 s a training step: 4.3", _unfit_for_denormals,
    ),
    Optimisation(
        "decoding ahead in threads", "decoding in the thread that scores",
        f"{_MICRO_BATCHES} micro-batches from files", _decode_ahead,
    ),
    Optimisation(
        "JPEG decoded at reduced scale", "at full scale", "bytes of all photographs to pixels, one core",
        _reduced_scale, "384 → 80 ms (12 MP to 256 tokens): 4.8",
    ),
    Optimisation(
        "resizing by torch", "by Pillow", "bytes of all photographs to pixels, one core", _resize,
        "16 → 3 ms for the resize (2 MP to 256 tokens): 5.3",
    ),
)  # fmt: skip
