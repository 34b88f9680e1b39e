"""The scorer without a pipeline around it: read and decode in threads ahead, score, keep nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from beam_pipeline.scoring.engine import default_fetch_threads
from model.batching import plan_micro_batches
from model.prepared import PreparedImage
from model.scorer import Scorer
from schemas.errors import ConfigurationError


@dataclass(frozen=True)
class Feeding:
    """How images come to the model.

    Attributes:
        micro_batch: Most images of a micro-batch.
        token_budget: Most visual tokens of one.
        threads: That read and decode.
        window: Images that are decoded while the window before is scored.
    """

    micro_batch: int
    token_budget: int
    threads: int
    window: int

    @classmethod
    def full(
        cls,
        scorer: Scorer,
        visual_tokens: int,
        most_images: int,
        token_budget: int | None = None,
        threads: int | None = None,
    ) -> Feeding:
        """Full micro-batches of images of one size.

        Args:
            scorer: That takes them.
            visual_tokens: Of every image.
            most_images: Of a micro-batch.
            token_budget: Of one; None = what the scorer suggests for its device.
            threads: That decode; None = as in the pipeline.
        """
        budget = token_budget or scorer.token_budget
        count = max(min(most_images, budget // visual_tokens), 1)
        return cls(count, budget, threads or default_fetch_threads(), window=count)


@dataclass(frozen=True)
class BareRun:
    """What a run over files came to.

    Attributes:
        images_per_s: From the first micro-batch's predictions, whose images do not count, to the last; None
            of a single micro-batch.
        fetch_ms: Mean time that a thread took to read an image.
        decode_ms: Mean time that a thread took to check and decode it; threads may wait for a core.
    """

    images_per_s: float | None
    fetch_ms: float
    decode_ms: float


def run_bare(scorer: Scorer, files: Sequence[Path], feeding: Feeding) -> BareRun:
    """Score files."""
    times: list[tuple[float, float]] = []
    done: list[float] = []

    def prepare(path: Path) -> PreparedImage:
        begun = time.perf_counter()
        data = path.read_bytes()
        read = time.perf_counter()
        prepared = scorer.prepare(data)
        times.append((read - begun, time.perf_counter() - read))
        return prepared

    window = feeding.window
    with ThreadPoolExecutor(feeding.threads) as pool:
        ahead = [pool.submit(prepare, path) for path in files[:window]]
        for begin in range(window, len(files) + window, window):
            current = ahead
            ahead = [pool.submit(prepare, path) for path in files[begin : begin + window]]
            for batch in micro_batches([future.result() for future in current], feeding):
                scorer.predict(batch)
                done += [time.perf_counter()] * len(batch)
    fetch, decode = (statistics.mean(column) * 1000 for column in zip(*times, strict=True))
    return BareRun(between_outcomes(done), fetch, decode)


def known(images_per_s: float | None) -> float:
    """A speed that there must be.

    Raises:
        ConfigurationError: There is none: one micro-batch held all images.
    """
    if images_per_s is None:
        raise ConfigurationError("one micro-batch holds all images: take more")
    return images_per_s


def between_outcomes(moments: Sequence[float]) -> float | None:
    """Images a second from the first moment, whose own images came before it, to the last.

    Args:
        moments: When every image had its outcome, seconds; those of a micro-batch are equal.
    """
    first, last = min(moments), max(moments)
    return sum(moment > first for moment in moments) / (last - first) if last > first else None


def predict_all(scorer: Scorer, prepared: Sequence[PreparedImage], feeding: Feeding) -> None:
    """Score images in micro-batches."""
    for batch in micro_batches(prepared, feeding):
        scorer.predict(batch)


def micro_batches(prepared: Sequence[PreparedImage], feeding: Feeding) -> list[list[PreparedImage]]:
    """Micro-batches as the library and the pipeline plan them."""
    tokens = [image.visual_tokens for image in prepared]
    plan = plan_micro_batches(tokens, feeding.token_budget, feeding.micro_batch)
    return [[prepared[index] for index in batch] for batch in plan]
