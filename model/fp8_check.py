"""Whether FP8 ranks photographs as the full number format does: what must hold before anyone uses it.

agreement = check_fp8(scorer, photographs)    # scorer: loaded without FP8, of no use afterwards
agreement.passes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.fp8 import fp8_product, reference_product
from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from model.scorer import Photograph, Scorer

LEAST_SRCC = 0.999
FEWEST_PHOTOGRAPHS = 20
"""Of fewer, one pair that changes places says too much, and none too little."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How two formats score the same photographs.

    Attributes:
        photographs: How many.
        srcc: Spearman's rank correlation of their scores, in [-1, 1].
        median_difference: Of |Δ score|, on the scale [0, 10).
        max_difference: Likewise.
        arithmetic: What stood in for, or is, the device's FP8.
    """

    photographs: int
    srcc: float
    median_difference: float
    max_difference: float
    arithmetic: str

    @property
    def passes(self) -> bool:
        """Whether FP8 may be used."""
        return self.srcc >= LEAST_SRCC

    def text(self) -> str:
        """One line for a person."""
        verdict = "passed" if self.passes else f"FAILED, needs at least {LEAST_SRCC}"
        return (
            f"fp8 ({self.arithmetic}), {self.photographs} photographs: SRCC {self.srcc:.5f} ({verdict}); "
            f"|Δscore| median {self.median_difference:.4f}, max {self.max_difference:.4f}"
        )


def check_fp8(scorer: Scorer, photographs: Sequence[Photograph]) -> Agreement:
    """Score photographs in both formats.

    On a CPU the reference arithmetic stands in for the kernel: the same 8-bit numbers, multiplied in float32.

    Args:
        scorer: Loaded without FP8; of no use afterwards.
        photographs: Paths, or files' bytes.

    Raises:
        ConfigurationError: Too few photographs, an adapter without scores, or a GPU that has no FP8.
        FetchError, DecodeError: For the first photograph that cannot be read.
    """
    if len(photographs) < FEWEST_PHOTOGRAPHS:
        raise ConfigurationError(
            f"fp8: {len(photographs)} photographs say too little about ranks; give at least "
            f"{FEWEST_PHOTOGRAPHS} different ones"
        )
    on_cpu = scorer.device.type == "cpu"
    product = reference_product if on_cpu else fp8_product(scorer.device, scorer.dtype)
    before = _scores(scorer, photographs)
    after = _scores(scorer.in_fp8(product), photographs)
    return agreement(before, after, "reference arithmetic" if on_cpu else "kernel")


def agreement(before: Sequence[float], after: Sequence[float], arithmetic: str) -> Agreement:
    """Compare scores of the same photographs, in the same order."""
    one, other = (np.asarray(scores, dtype=np.float64) for scores in (before, after))
    differences = np.abs(one - other)
    return Agreement(
        len(one), _srcc(one, other), float(np.median(differences)), float(differences.max()), arithmetic
    )


def _scores(scorer: Scorer, photographs: Sequence[Photograph]) -> list[float]:
    scores = [prediction.score for prediction in scorer.score(photographs)]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        raise ConfigurationError(
            "fp8: this adapter, or this template, gives no score, so there are no ranks to compare"
        )
    return known


def _srcc(one: Numbers, other: Numbers) -> float:
    """Spearman's rank correlation; equal numbers share a rank. 0 where all of one side are equal."""
    ranks = np.stack([_ranks(one), _ranks(other)])
    centred = ranks - ranks.mean(1, keepdims=True)
    norm = np.sqrt((centred**2).sum(1).prod())
    return float(centred.prod(0).sum() / norm) if norm else 0.0


def _ranks(numbers: Numbers) -> Numbers:
    _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks: Numbers = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
