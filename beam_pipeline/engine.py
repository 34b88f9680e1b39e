"""The engine: one chunk of refs in, one outcome for every ref out. No Beam.

Images are fetched and decoded ahead of the model (``beam_pipeline.prefetch``); the model sees
micro-batches planned by visual tokens. A bad image is data: it becomes a failure, alone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Protocol

from beam_pipeline.failures import (
    AdapterIdentity,
    FailureContext,
    failure_of,
    is_device_lost,
    is_out_of_memory,
    listing_failure,
)
from beam_pipeline.heap import return_large_blocks
from beam_pipeline.prefetch import Arrival, Preparer, windows_ahead
from beam_pipeline.scorers import PreparedImage, Scorer, ScorerFactory
from beam_pipeline.storage import read_image
from model.batching import plan_micro_batches
from schemas.errors import ConfigurationError, InferenceError
from schemas.records import (
    Chunk,
    ImageRef,
    ImageScore,
    Outcome,
    Prediction,
    ScoredChunk,
)

_FEWEST_THREADS = 4


class Observer(Protocol):
    """Hears what happens while a chunk is scored, always in the thread that called the engine."""

    def fetched(self, milliseconds: float) -> None:
        """One image was read."""

    def decoded(self, milliseconds: float) -> None:
        """One image was decoded."""

    def predicted(self, images: int, visual_tokens: int, milliseconds: float) -> None:
        """One micro-batch was scored."""

    def finished(self, outcome: Outcome) -> None:
        """One ref has its outcome."""


@dataclass(frozen=True)
class EngineSettings:
    """How an engine works; nothing here changes a score beyond rounding.

    Attributes:
        fetch_threads: Threads that fetch and decode; None = one per core of this machine, at least four.
        prefetch_images: Most images between fetching and the model; one micro-batch comes on top.
        micro_batch_images: Most images of a micro-batch.
        token_budget: Visual tokens of a micro-batch; None = what the scorer suggests for its device.
        max_file_bytes: Larger files are refused without being read.
    """

    fetch_threads: int | None
    prefetch_images: int
    micro_batch_images: int
    token_budget: int | None
    max_file_bytes: int


@dataclass(frozen=True)
class _Work:
    """One chunk on its way through the engine."""

    run_id: str
    observer: Observer
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def finish(self, arrival: Arrival, outcome: Outcome) -> None:
        self.outcomes[arrival.index] = outcome
        self.observer.finished(outcome)


class Engine:
    """A loaded scorer with what feeds it. Thread-safe: one per process, shared by Beam's threads.

    Args:
        scorer: Does the work.
        settings: Sizes.
        clock: Now, in UTC.
    """

    def __init__(
        self,
        scorer: Scorer,
        settings: EngineSettings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._scorer = scorer
        self._settings = settings
        who = scorer.provenance
        self._identity = AdapterIdentity(who.adapter, who.adapter_revision)
        self._clock = clock
        self._token_budget = settings.token_budget or scorer.token_budget
        # More would only hold more decoded pictures at a time; fewer would wait for an object store.
        threads = settings.fetch_threads or default_fetch_threads()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        self._device = threading.Lock()
        self._prepare = Preparer(self._fetch, self._prepare_bytes)

    def score_chunk(self, chunk: Chunk, run_id: str, observer: Observer) -> ScoredChunk:
        """Score a chunk.

        Args:
            chunk: Refs.
            run_id: Stamped on every row.
            observer: Hears of every image and micro-batch.

        Returns:
            One outcome for every ref, in their order.

        Raises:
            ConfigurationError: Found only now; no image is to blame.
            Exception: The device is lost; the process must be restarted.
        """
        work = _Work(run_id, observer)
        waiting: list[Arrival] = []
        left = len(chunk.refs)
        window = max(self._settings.prefetch_images // 2, 1)
        for arrivals in windows_ahead(chunk.refs, self._prepare, self._pool, window):
            left -= len(arrivals)
            waiting += self._admit(arrivals, work)
            # Pixels live in the arrivals: drop this hold on them before the next window is decoded.
            arrivals.clear()
            waiting = self._score_full(waiting, work, is_last=not left)
        return ScoredChunk(tuple(work.outcomes[index] for index in range(len(chunk.refs))))

    def _admit(self, arrivals: list[Arrival], work: _Work) -> list[Arrival]:
        """Give those that can be scored; the others have their outcome at once."""
        for arrival in arrivals:
            if arrival.fetch_ms is not None:
                work.observer.fetched(arrival.fetch_ms)
            if arrival.decode_ms is not None:
                work.observer.decoded(arrival.decode_ms)
            if arrival.prepared is None:
                work.finish(arrival, self._refused(arrival, work.run_id))
        return [arrival for arrival in arrivals if arrival.prepared is not None]

    def _score_full(self, waiting: list[Arrival], work: _Work, *, is_last: bool) -> list[Arrival]:
        """Score in micro-batches; give back the last one, seldom full, to be filled from the next window."""
        sizes = [arrival.prepared.visual_tokens for arrival in waiting]
        plan = plan_micro_batches(sizes, self._token_budget, self._settings.micro_batch_images)
        batches = [[waiting[index] for index in batch] for batch in plan]
        rest = batches.pop() if batches and not is_last else []
        for batch in batches:
            self._score(batch, work)
        return rest

    def _fetch(self, ref: ImageRef) -> bytes:
        return read_image(ref, self._settings.max_file_bytes)

    def _prepare_bytes(self, data: bytes, context: str | None) -> PreparedImage:
        prepared: PreparedImage = self._scorer.prepare(data, context=context)
        return prepared

    def _context(self, run_id: str) -> FailureContext:
        return FailureContext(self._identity, run_id, self._clock())

    def _refused(self, arrival: Arrival, run_id: str) -> Outcome:
        if isinstance(arrival.error, ConfigurationError):
            raise arrival.error
        if arrival.error is None:
            return listing_failure(arrival.ref, self._context(run_id))
        return failure_of(
            arrival.ref, arrival.error, self._context(run_id), stage=arrival.stage, facts=arrival.facts
        )

    def _score(self, batch: list[Arrival], work: _Work) -> None:
        results = self._predict(batch, work.observer)
        context = self._context(work.run_id)
        for arrival, result in zip(batch, results, strict=True):
            ref, facts = arrival.ref, arrival.facts
            outcome: Outcome
            if isinstance(result, Prediction):
                who, now = self._scorer.provenance, context.failed_at
                outcome = ImageScore(ref, facts, result, who, work.run_id, now)
            else:
                used = arrival.prepared.context_used
                outcome = failure_of(ref, result, context, facts=facts, context_used=used)
            work.finish(arrival, outcome)

    def _predict(self, batch: list[Arrival], observer: Observer) -> list[Prediction | Exception]:
        """Predict; halve a failing micro-batch until the image to blame is alone."""
        try:
            with self._device:
                start = perf_counter()
                predictions = self._scorer.predict([arrival.prepared for arrival in batch])
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
            tokens = sum(arrival.prepared.visual_tokens for arrival in batch)
            observer.predicted(len(batch), tokens, seconds * 1000)
            return [*predictions]
        if is_out_of_memory(cause):
            self._make_room(batch)
        if len(batch) == 1:
            return [cause]
        middle = len(batch) // 2
        return self._predict(batch[:middle], observer) + self._predict(batch[middle:], observer)

    def _make_room(self, batch: list[Arrival]) -> None:
        largest = max(arrival.prepared.visual_tokens for arrival in batch)
        # Half of what did not fit: later micro-batches are planned smaller from the start.
        self._token_budget = min(self._token_budget, max(largest * len(batch) // 2, 1))
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def default_fetch_threads() -> int:
    """One thread per core of this machine, at least four: fetching waits more than it computes."""
    return max(os.cpu_count() or 1, _FEWEST_THREADS)


_ENGINES: dict[tuple[ScorerFactory, EngineSettings], Engine] = {}
_ENGINES_LOCK = threading.Lock()


def pinned_engine(factory: ScorerFactory, settings: EngineSettings) -> Engine:
    """Give this process's engine, loading it at the first call.

    Pinned for the life of the process: Beam drops idle processors after a minute, and with them
    anything that only they hold; a quiet stream would load the model again and again.

    Raises:
        ConfigurationError: The scorer cannot be loaded.
    """
    with _ENGINES_LOCK:
        engine = _ENGINES.get((factory, settings))
        if engine is None:
            return_large_blocks()
            engine = Engine(factory.load(), settings)
            _ENGINES[(factory, settings)] = engine
        return engine


def release_engines() -> None:
    """Forget all engines, so that tests and long-lived processes can load others."""
    with _ENGINES_LOCK:
        _ENGINES.clear()
