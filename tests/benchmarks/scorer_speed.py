"""``scorer``: images a second of the scorer, where the time goes, and how far it is from the floor."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from model.prepared import PreparedImage
from model.scorer import Scorer
from schemas.errors import ConfigurationError
from tests.benchmarks.against_generate import against_generate
from tests.benchmarks.bare_scorer import BareRun, Feeding, known, micro_batches, predict_all, run_bare
from tests.benchmarks.built import Built
from tests.benchmarks.devices import (
    GIB,
    alternating,
    copy_bytes_per_s,
    forget_peak,
    matmul_flops_per_s,
    medians,
    peak_bytes,
    rounded,
)
from tests.benchmarks.floor import Floor, batch_works, floor_of, program_passes
from tests.benchmarks.pictures import Pixels, image_size, jpegs, read_photographs, size_of, write_files
from tests.benchmarks.reference_scores import against_reference, check_comparable, reference_photographs
from tests.benchmarks.split import split_seconds

_PHOTOGRAPHS = 32
"""Different ones at most: the others of a run are the same again, which costs a scorer the same."""


@dataclass(frozen=True)
class ScorerPlan:
    """What to measure.

    Attributes:
        shape: ``tiny``, ``toy``, ``2b`` or ``7b``.
        device: Where.
        dtype: Of the weights.
        visual_tokens: One row of figures each, times the templates.
        templates: By name; None = the adapter's default.
        photos: Folder of photographs; None = those that wheels ship.
        megapixels: Of the JPEG files.
        micro_batches: Full ones in a run.
        runs: Of everything, in turns.
        micro_batch_images: Most images of a micro-batch.
        token_budget: Visual tokens of one; None = what the scorer suggests for its device.
        threads: That decode; None = as the pipeline.
        generate_batches: Batch sizes of ``generate()`` beside it; none = without.
        generate_images: Images of a run of it.
    """

    shape: str
    device: torch.device
    dtype: torch.dtype
    visual_tokens: Sequence[int]
    templates: Sequence[str | None] = (None,)
    photos: Path | None = None
    megapixels: float = 2.0
    micro_batches: int = 4
    runs: int = 3
    micro_batch_images: int = 64
    token_budget: int | None = None
    threads: int | None = None
    generate_batches: Sequence[int] = ()
    generate_images: int = 32
    reference_images: int = 0
    reference_dtype: torch.dtype | None = None


@dataclass(frozen=True)
class _Beside:
    """What stands beside the scorer; models are made once, after it is known what the scorer needs itself.

    Attributes:
        stock: Gives transformers' own model with the same weights.
        reference: Gives the reference's model.
        peer: Gives ``stock`` where the reference has another number format than the scorer.
        reference_photos: To compare on; none = no comparison.
    """

    stock: Callable[[], Any]
    reference: Callable[[], Any]
    peer: Callable[[], Any]
    reference_photos: Sequence[Pixels]

    @classmethod
    def of(cls, plan: ScorerPlan, built: Built) -> _Beside:
        photos: Sequence[Pixels] = ()
        if plan.reference_images:
            photos = reference_photographs(plan.photos, plan.reference_images)
            for template in plan.templates:
                check_comparable(built.scorer(template, min(plan.visual_tokens)))
        dtype = plan.reference_dtype or plan.dtype
        stock = cache(built.stock)
        peer = stock if dtype != plan.dtype else lambda: None
        return cls(stock, cache(partial(built.reference, dtype)), peer, photos)


@dataclass(frozen=True)
class _Speed:
    """What the device can do, in this run."""

    matmul_flops_per_s: float
    copy_bytes_per_s: float


def measure_scorer(plan: ScorerPlan, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure every template at every number of visual tokens.

    Args:
        plan: What.
        tell: Hears of every row as it is done: a long run may be cut off.

    Raises:
        ConfigurationError: A run of fewer than two micro-batches, there are no photographs, or the reference
            has too few of them or a template that it cannot compare.
    """
    if plan.micro_batches < 2:
        raise ConfigurationError("--micro-batches: at least 2, as one is decoded while another is scored")
    built = Built.of(plan.shape, plan.device, plan.dtype)
    speed = _Speed(matmul_flops_per_s(plan.device, plan.dtype), copy_bytes_per_s(plan.device))
    photos = read_photographs(plan.photos, _PHOTOGRAPHS)
    beside = _Beside.of(plan, built)
    rows = []
    for template in plan.templates:
        for tokens in plan.visual_tokens:
            rows.append(_row(plan, built.scorer(template, tokens), tokens, photos, speed, beside))
            tell(f"{plan.shape}: {rows[-1]}")
    return {
        "shape": plan.shape,
        "weights": "trained" if plan.shape == "tiny" else "random: true of speed, nothing else",
        "device": plan.device.type,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "matmul_tflops": rounded(speed.matmul_flops_per_s / 1e12),
        "copy_gb_per_s": rounded(speed.copy_bytes_per_s / 1e9),
        "photographs": len(photos),
        "rows": rows,
    }


def _row(
    plan: ScorerPlan, scorer: Scorer, tokens: int, photos: Sequence[Pixels], speed: _Speed,
    beside: _Beside,
) -> dict[str, Any]:  # fmt: skip
    feeding = Feeding.full(scorer, tokens, plan.micro_batch_images, plan.token_budget, plan.threads)
    height, width = image_size(tokens)
    files = jpegs(photos, *size_of(plan.megapixels, height / width))
    count = feeding.window * plan.micro_batches
    images = [scorer.prepare(data) for data in files]
    prepared = [images[index % len(images)] for index in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), files, count)
        own = _own_times(plan, scorer, prepared, paths, feeding)
    images_per_s = count / own.seconds["prepared"]
    floor = _floor(plan, scorer, micro_batches(prepared, feeding)[0], speed)
    row: dict[str, Any] = {
        "template": scorer.provenance.template,
        "visual_tokens": tokens,
        "image_tokens": rounded(statistics.mean(image.visual_tokens for image in prepared)),
        "micro_batch": feeding.window,
        "images": count,
        "images_per_s": rounded(images_per_s),
        "jpeg_images_per_s": rounded(statistics.median(known(run.images_per_s) for run in own.bare)),
        "jpeg_megapixels": plan.megapixels,
        "decode_threads": feeding.threads,
        "split_ms": _split_ms(own, count),
        "split_cost": rounded(own.seconds["split"] / own.seconds["prepared"] - 1),
        "peak_memory_gib": _peak(scorer, prepared, feeding),
        "tflop_per_image": rounded(floor.tflop_per_image),
        "floor_images_per_s": rounded(floor.images_per_s),
        "fraction_of_floor": rounded(images_per_s / floor.images_per_s),
        "fraction_of_matmul": rounded(images_per_s * floor.tflop_per_image * 1e12 / speed.matmul_flops_per_s),
    }
    if plan.generate_batches:
        row["generate"] = [
            _beside_generate(plan, scorer, beside.stock(), images, feeding, size, images_per_s)
            for size in plan.generate_batches
        ]
    if beside.reference_photos:
        row["reference"] = against_reference(
            scorer, beside.reference(), beside.reference_photos, plan.megapixels, feeding, beside.peer()
        )
    return row


@dataclass(frozen=True)
class _OwnTimes:
    """Median ``seconds`` of the runs by name, and what the runs themselves told."""

    seconds: dict[str, float]
    bare: Sequence[BareRun]
    parts: Sequence[dict[str, float]]


def _own_times(
    plan: ScorerPlan, scorer: Scorer, prepared: Sequence[PreparedImage], paths: Sequence[Path],
    feeding: Feeding,
) -> _OwnTimes:  # fmt: skip
    batches = micro_batches(prepared, feeding)
    bare: list[BareRun] = []
    parts: list[dict[str, float]] = []
    calls: dict[str, Callable[[], Any]] = {
        "prepared": partial(predict_all, scorer, prepared, feeding),
        "split": lambda: parts.append(split_seconds(scorer, batches)),
        "jpeg": lambda: bare.append(run_bare(scorer, paths, feeding)),
    }
    scorer.predict(batches[0])
    run_bare(scorer, paths[: feeding.window], feeding)
    return _OwnTimes(medians(alternating(calls, plan.runs, plan.device)), bare, parts)


def _split_ms(own: _OwnTimes, count: int) -> dict[str, float]:
    """Milliseconds an image: of a thread until it is decoded, then of the device with the host behind it."""
    host = {
        "fetch": statistics.median(run.fetch_ms for run in own.bare),
        "decode": statistics.median(run.decode_ms for run in own.bare),
    }
    ours = {part: statistics.median(run[part] for run in own.parts) * 1000 / count for part in own.parts[0]}
    return {part: rounded(spent) for part, spent in (host | ours).items()}


def _peak(scorer: Scorer, prepared: Sequence[PreparedImage], feeding: Feeding) -> float | None:
    forget_peak(scorer.device)
    scorer.predict(micro_batches(prepared, feeding)[0])
    found = peak_bytes(scorer.device)
    return None if found is None else rounded(found / GIB)


def _floor(plan: ScorerPlan, scorer: Scorer, batch: Sequence[PreparedImage], speed: _Speed) -> Floor:
    tokens = [image.visual_tokens for image in batch]
    decoder = scorer.decoder
    passes = program_passes(decoder.prompt, decoder.program, max(tokens))
    works = batch_works(decoder.model.config, tokens, passes, plan.dtype.itemsize)
    return floor_of(works, len(tokens), speed.matmul_flops_per_s, speed.copy_bytes_per_s)


def _beside_generate(
    plan: ScorerPlan, scorer: Scorer, stock: Any, images: Sequence[PreparedImage], feeding: Feeding,
    size: int, images_per_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Beside ``generate()``: in batches of its size, and in our own micro-batches."""
    count = -(-plan.generate_images // size) * size
    some = [images[index % len(images)] for index in range(count)]
    found = against_generate(scorer, stock, some, feeding, size, plan.runs)
    return found | {"ratio": rounded(images_per_s / found["images_per_s"])}
