"""``paths``: what every optimisation gives, beside what was predicted of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.bare_scorer import Feeding
from tests.benchmarks.built import Built
from tests.benchmarks.comparing import Bench, Optimisation, measure
from tests.benchmarks.cuda_paths import CUDA_PATHS
from tests.benchmarks.host_paths import HOST_PATHS
from tests.benchmarks.model_paths import MODEL_PATHS
from tests.benchmarks.pictures import image_size, jpegs, read_photographs, size_of

PATHS: Sequence[Optimisation] = (*MODEL_PATHS, *CUDA_PATHS, *HOST_PATHS)


@dataclass(frozen=True)
class PathsPlan:
    """What to measure with.

    Attributes:
        shape: ``tiny``, ``toy``, ``2b`` or ``7b``.
        device: Where.
        dtype: Of the weights.
        visual_tokens: Of every image.
        photos: Folder of photographs; None = those that wheels ship.
        photographs: Different ones at most.
        megapixels: Of the JPEG files.
        micro_batch_images: Most images of a micro-batch.
        runs: Turns of every comparison.
    """

    shape: str
    device: torch.device
    dtype: torch.dtype
    visual_tokens: int = 256
    photos: Path | None = None
    photographs: int = 6
    megapixels: float = 12.0
    micro_batch_images: int = 64
    runs: int = 5


def measure_paths(
    plan: PathsPlan, tell: Callable[[str], None] = print, paths: Sequence[Optimisation] = PATHS
) -> dict[str, Any]:
    """Measure every optimisation that fits the device; one that fails costs its own row alone.

    Args:
        plan: With what.
        tell: Hears of every row as it is done: a long run may be cut off.
        paths: Which.

    Raises:
        ConfigurationError: There are no photographs.
    """
    bench = _bench(plan)
    rows, left_out, failed = [], [], []
    for optimisation in paths:
        reason = optimisation.unfit(bench)
        if reason is not None:
            left_out.append({"optimisation": optimisation.name, "reason": reason})
            tell(f"{optimisation.name}: left out ({reason})")
            continue
        try:
            rows.append(measure(optimisation, bench))
            tell(f"{optimisation.name}: {rows[-1]['ratio']}")
        # Whatever it is: the other rows of a run that took minutes must not be lost with it.
        except Exception as error:
            said = str(error).strip().splitlines()
            failed.append({"optimisation": optimisation.name, "reason": said[0] if said else repr(error)})
            tell(f"{optimisation.name}: FAILED ({failed[-1]['reason']})")
    return {
        "shape": plan.shape,
        "device": plan.device.type,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "visual_tokens": plan.visual_tokens,
        "micro_batch": len(bench.images),
        "photographs": len(bench.files),
        "jpeg_megapixels": plan.megapixels,
        "runs": plan.runs,
        "rows": rows,
        "left_out": left_out,
        "failed": failed,
    }


def _bench(plan: PathsPlan) -> Bench:
    built = Built.of(plan.shape, plan.device, plan.dtype)
    scorer = built.scorer(None, plan.visual_tokens)
    feeding = Feeding.full(scorer, plan.visual_tokens, plan.micro_batch_images)
    height, width = image_size(plan.visual_tokens)
    photos = read_photographs(plan.photos, plan.photographs)
    files = jpegs(photos, *size_of(plan.megapixels, height / width))
    prepared = [scorer.prepare(data) for data in files]
    images = [prepared[index % len(prepared)] for index in range(feeding.window)]
    return Bench(built, scorer, images, files, feeding, plan.runs)
