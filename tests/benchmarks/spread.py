"""``spread``: how far the score of a photograph moves with its micro-batch, by ``tests.golden``'s measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.scorer import Scorer
from tests.benchmarks.built import Built
from tests.benchmarks.devices import rounded
from tests.benchmarks.pictures import jpeg, read_photographs
from tests.golden.company import Moved, measure


def measure_spread(
    shape: str, device: torch.device, dtype: torch.dtype, visual_tokens: int, photos: Path | None, most: int,
    batches: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """Put photographs into many micro-batches.

    Args:
        shape: ``tiny``, ``toy``, ``2b`` or ``7b``.
        device: Where.
        dtype: Of the weights.
        visual_tokens: Of the photographs at most.
        photos: Folder of photographs; None = those that wheels ship.
        most: Photographs.
        batches: Sizes of the mixed micro-batches.
    """
    scorer = Built.of(shape, device, dtype).scorer(None, visual_tokens)
    moved = [_moved(scorer, jpeg(picture), batches) for picture in read_photographs(photos, most)]
    largest = sorted(found.largest("") for found in moved)
    return {
        "shape": shape,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "visual_tokens": visual_tokens,
        "photographs": len(moved),
        "predictions_each": len(moved[0].predictions),
        "largest_delta": rounded(largest[-1]),
        "median_largest_delta": rounded(largest[len(largest) // 2]),
        "largest_spread": rounded(max(found.spread for found in moved)),
        "decided_otherwise": sum(len(found.changed) for found in moved),
    }


def _moved(scorer: Scorer, data: bytes, batches: Sequence[int]) -> Moved:
    return measure(scorer, scorer.prepare(data), batches)
