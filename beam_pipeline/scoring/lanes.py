"""A lane: one scorer, and how micro-batches are made for it and survive a bad image among them.

All lanes of a device share one thread that predicts. While it is at one micro-batch, the thread of the chunk
writes up the outcomes of the one before, and plans and stages the next.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from beam_pipeline.scoring.failures import AdapterIdentity, is_device_lost, is_out_of_memory
from beam_pipeline.scoring.observers import Observer
from beam_pipeline.scoring.scorers import PreparedImage, Scorer, StagingScorer
from model.batching import plan_micro_batches
from schemas.errors import ConfigurationError, InferenceError
from schemas.records import ImageFacts, ImageRef, Prediction


@dataclass(frozen=True)
class Waiting:
    """One prepared image of a chunk, waiting for the model.

    Attributes:
        index: Its place in the chunk.
        ref: The ref.
        facts: What reading it told.
        prepared: By the scorer whose lane it waits in.
    """

    index: int
    ref: ImageRef
    facts: ImageFacts
    prepared: PreparedImage


@dataclass(frozen=True)
class Running:
    """A micro-batch that a lane has begun; ``Lane.finish`` waits for it.

    Attributes:
        batch: Its images.
        done: What the scorer said, and the seconds that it took.
    """

    batch: Sequence[Waiting]
    done: Future[tuple[list[Prediction], float]]

    def abandon(self) -> None:
        """Make sure that it does not run any more; nobody wants to know how it ended."""
        if not self.done.cancel():
            wait([self.done])


def device_thread() -> ThreadPoolExecutor:
    """Make what predicts on one device: one micro-batch at a time, all in one thread."""
    return ThreadPoolExecutor(1, thread_name_prefix="device")


class Lane:
    """One scorer with the sizes of its micro-batches. Thread-safe.

    Args:
        scorer: Predicts.
        micro_batch_images: Most images of a micro-batch.
        token_budget: Visual tokens of a micro-batch; None = what the scorer suggests for its device.
        device: Predicts; the lanes of one device share it (``device_thread``).
    """

    def __init__(
        self, scorer: Scorer, micro_batch_images: int, token_budget: int | None, device: ThreadPoolExecutor
    ) -> None:
        self.scorer = scorer
        self.provenance = scorer.provenance
        self.identity = AdapterIdentity(self.provenance.adapter, self.provenance.adapter_revision)
        self._micro_batch_images = micro_batch_images
        self._token_budget = token_budget or scorer.token_budget
        self._device = device

    def followed_by(self, scorer: Scorer) -> Lane:
        """Give the lane of the scorer that takes this one's place, with what was learnt of the device."""
        return Lane(scorer, self._micro_batch_images, self._token_budget, self._device)

    def plan(self, images: Sequence[Waiting]) -> list[list[Waiting]]:
        """Put images into micro-batches; the last one is seldom full."""
        sizes = [image.prepared.visual_tokens for image in images]
        batches = plan_micro_batches(sizes, self._token_budget, self._micro_batch_images)
        return [[images[index] for index in batch] for batch in batches]

    def start(self, batch: Sequence[Waiting]) -> Running:
        """Stage a micro-batch, here and now, and have it predicted when its turn comes."""
        prepared = [image.prepared for image in batch]
        done: Future[tuple[list[Prediction], float]]
        try:
            staged = self.scorer.stage(prepared) if isinstance(self.scorer, StagingScorer) else prepared
        except (
            Exception
        ) as error:  # of the device: it comes to light in ``finish``, as those of predicting do
            done = Future()
            done.set_exception(error)
        else:
            done = self._device.submit(self._predict, staged, len(batch))
        return Running(batch, done)

    def finish(self, running: Running, observer: Observer) -> list[Prediction | Exception]:
        """Wait for a micro-batch; halve one that fails until the image to blame is alone.

        Returns:
            For every image what the model said, or why it could not.

        Raises:
            ConfigurationError: Found only now; no image is to blame.
            Exception: The device is lost.
        """
        batch = running.batch
        tokens = [image.prepared.visual_tokens for image in batch]
        try:
            predictions, seconds = running.done.result()
        except ConfigurationError:
            raise
        except Exception as error:  # anything may go wrong in there; the row keeps the type
            if is_device_lost(error):
                raise
            # Without its traceback, which holds the tensors of the failed attempt.
            cause = error.with_traceback(None)
        else:
            observer.predicted(len(batch), sum(tokens), seconds * 1000)
            return [*predictions]
        if is_out_of_memory(cause):
            self._make_room(max(tokens) * len(batch))
        if len(batch) == 1:
            return [cause]
        middle = len(batch) // 2
        halves = (self.finish(self.start(half), observer) for half in (batch[:middle], batch[middle:]))
        return [result for half in halves for result in half]

    def _predict(self, staged: Any, images: int) -> tuple[list[Prediction], float]:
        start = perf_counter()
        predictions = self.scorer.predict(staged)
        if len(predictions) != images:
            raise InferenceError(f"{len(predictions)} predictions for {images} images")
        return predictions, perf_counter() - start

    def _make_room(self, padded_tokens: int) -> None:
        # Half of what did not fit: later micro-batches are planned smaller from the start.
        self._token_budget = min(self._token_budget, max(padded_tokens // 2, 1))
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
