"""A lane: one scorer, and how micro-batches are made for it and survive a bad image among them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from beam_pipeline.failures import AdapterIdentity, is_device_lost, is_out_of_memory
from beam_pipeline.observers import Observer
from beam_pipeline.scorers import PreparedImage, Scorer
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


class Lane:
    """One scorer with the sizes of its micro-batches. Thread-safe.

    Args:
        scorer: Predicts.
        micro_batch_images: Most images of a micro-batch.
        token_budget: Visual tokens of a micro-batch; None = what the scorer suggests for its device.
        device: Held while the scorer predicts; the lanes of one device share it.
    """

    def __init__(
        self, scorer: Scorer, micro_batch_images: int, token_budget: int | None, device: threading.Lock
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

    def predict(self, batch: Sequence[Waiting], observer: Observer) -> list[Prediction | Exception]:
        """Predict; halve a failing micro-batch until the image to blame is alone.

        Returns:
            For every image what the model said, or why it could not.

        Raises:
            ConfigurationError: Found only now; no image is to blame.
            Exception: The device is lost.
        """
        tokens = [image.prepared.visual_tokens for image in batch]
        try:
            with self._device:
                start = perf_counter()
                predictions = self.scorer.predict([image.prepared for image in batch])
                seconds = perf_counter() - start
            if len(predictions) != len(batch):
                raise InferenceError(f"{len(predictions)} predictions for {len(batch)} images")
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
        return self.predict(batch[:middle], observer) + self.predict(batch[middle:], observer)

    def _make_room(self, padded_tokens: int) -> None:
        # Half of what did not fit: later micro-batches are planned smaller from the start.
        self._token_budget = min(self._token_budget, max(padded_tokens // 2, 1))
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
