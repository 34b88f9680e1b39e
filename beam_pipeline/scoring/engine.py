"""The engine: one chunk of refs in, one outcome for every ref out. No Beam.

Images are fetched and decoded ahead of the model (``beam_pipeline.scoring.prefetch``); the model sees
micro-batches planned by visual tokens. A bad image is data: it becomes a failure, alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic

from beam_pipeline.scoring.failures import FailureContext, failure_of, listing_failure
from beam_pipeline.scoring.gates import ByteGate
from beam_pipeline.scoring.lanes import Lane, Running, Waiting, device_thread
from beam_pipeline.scoring.observers import Observer
from beam_pipeline.scoring.prefetch import Arrival, Preparer, WindowsAhead, alone
from beam_pipeline.scoring.scorers import AdapterFollower, Challenger, PreparedImage, Scorer, ScorerFactory
from beam_pipeline.scoring.switching import ServingLane
from beam_pipeline.scoring.turns import Turn
from beam_pipeline.sources.sidecars import sidecar_context
from beam_pipeline.stores.storage import read_image
from schemas.errors import ConfigurationError
from schemas.records import (
    Chunk,
    ImageFacts,
    ImageRef,
    ImageScore,
    Outcome,
    Prediction,
    ScoredChunk,
    ScoringFailure,
)

_FEWEST_THREADS = 4
_CHUNKS_IN_WORK = 2


@dataclass(frozen=True)
class EngineSettings:
    """How an engine works; nothing here changes a score beyond rounding.

    Attributes:
        fetch_threads: Threads that fetch and decode; None = one per core of this process, at least four.
        prefetch_images: Most images between fetching and the model; two micro-batches come on top.
        micro_batch_images: Most images of a micro-batch.
        token_budget: Visual tokens of a micro-batch; None = what the scorer suggests for its device.
        max_file_bytes: Larger files are refused without being read.
        in_flight_bytes: Most bytes of files, and as many of pictures in decoding (3 a pixel), at a time.
        context_sidecars: Read the context of an image that has none from a sidecar beside it.
        adapter_poll_s: Least time between two looks at the pointer that names the adapter, seconds.
    """

    fetch_threads: int | None
    prefetch_images: int
    micro_batch_images: int
    token_budget: int | None
    max_file_bytes: int
    in_flight_bytes: int = 1024 * 1024 * 1024
    context_sidecars: bool = False
    adapter_poll_s: float = 30.0


@dataclass(frozen=True)
class _Prepared:
    """One image as each of those who score it takes it; its champion's side stands for it elsewhere."""

    champion: PreparedImage
    challenger: PreparedImage | Exception | None

    @property
    def facts(self) -> ImageFacts:
        return self.champion.facts


@dataclass
class _Work:
    """One chunk on its way through the engine, with one adapter as champion from end to end."""

    refs: Sequence[ImageRef]
    windows: WindowsAhead
    run_id: str
    observer: Observer
    champion: Lane
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    challenger_outcomes: dict[int, Outcome] = field(default_factory=dict)
    running: tuple[Lane, Running] | None = None

    def finish(self, lane: Lane, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, ScoringFailure):
            # With the context that was given, not a sidecar's: a retry reads that anew.
            outcome = replace(outcome, ref=self.refs[index])
        if lane is self.champion:
            self.outcomes[index] = outcome
            self.observer.finished(outcome)
        else:
            self.challenger_outcomes[index] = outcome
            self.observer.challenged(outcome)


class Engine:
    """A loaded scorer with what feeds it. Thread-safe: one per process, shared by Beam's threads.

    Args:
        scorer: Does the work.
        settings: Sizes.
        challenger: Scores a share of the images, too.
        follower: Looks whether another adapter shall take the scorer's place; None where it stays.
        clock: Now, in UTC.
        seconds: Monotonic, for the time between two looks.
    """

    def __init__(
        self,
        scorer: Scorer,
        settings: EngineSettings,
        *,
        challenger: Challenger | None = None,
        follower: AdapterFollower | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        sizes = (settings.micro_batch_images, settings.token_budget, device_thread())
        self._serving = ServingLane(Lane(scorer, *sizes), follower, settings.adapter_poll_s, seconds)
        self._challenger = challenger
        self._challenger_lane = Lane(challenger.scorer, *sizes) if challenger else None
        # More would only hold more decoded pictures at a time; fewer would wait for an object store.
        threads = settings.fetch_threads or default_fetch_threads()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        # A thread holds room for a file while it waits for room to decode it, never the other way round.
        self._files, self._pictures = (ByteGate(settings.in_flight_bytes) for _ in range(2))
        # Beam's threads bring a chunk each; one is scored while the next is fetched, the others hold refs.
        self._chunks_in_work = threading.BoundedSemaphore(_CHUNKS_IN_WORK)
        self._callers = 0
        self._callers_lock = threading.Lock()

    def score(self, turn: Turn, run_id: str, observer: Observer) -> ScoredChunk:
        """Score a chunk, and begin to prepare the one after it where the model would have to wait for that.

        Args:
            turn: Refs, and what comes after them.
            run_id: Stamped on every row.
            observer: Hears of every image and micro-batch.

        Returns:
            One outcome for every ref, in their order, all by the adapter that serves when the chunk begins;
            and those of the challenger.

        Raises:
            ConfigurationError: Found only now; no image is to blame.
            Exception: The device is lost; the process must be restarted.
        """
        self._serving.follow(observer)
        with self._calling(), self._chunks_in_work, self._serving.bound() as champion:
            windows = self._taken_up(turn, champion)
            work = _Work(turn.chunk.refs, windows, run_id, observer, champion)
            return self._score_refs(work, partial(self._begin_following, turn, champion))

    @contextmanager
    def _calling(self) -> Iterator[None]:
        with self._callers_lock:
            self._callers += 1
        try:
            yield
        finally:
            with self._callers_lock:
                self._callers -= 1

    def _taken_up(self, turn: Turn, champion: Lane) -> WindowsAhead:
        begun, turn.begun = turn.begun, None
        if begun is not None:
            lane, windows = begun
            if lane is champion:
                return windows
            # Another adapter has taken over since: its pixels may be others.
            windows.abandon()
        return self._windows(turn.chunk, champion)

    def _begin_following(self, turn: Turn, champion: Lane) -> None:
        # Where several threads bring chunks, the next one is being prepared anyway.
        if turn.following is not None and self._callers == 1:
            windows = self._windows(turn.following.chunk, champion)
            turn.following.begun = (champion, windows)
            windows.begin()

    def _windows(self, chunk: Chunk, champion: Lane) -> WindowsAhead:
        prepare = Preparer(self._fetch, partial(self._prepare, champion.scorer), self._context_of, self._room)
        return WindowsAhead(chunk.refs, prepare, self._pool, max(self._settings.prefetch_images // 2, 1))

    def _score_refs(self, work: _Work, then: Callable[[], None]) -> ScoredChunk:
        refs = work.refs
        waiting = {lane: list[Waiting]() for lane in (work.champion, self._challenger_lane) if lane}
        left = len(refs)
        try:
            for arrivals in work.windows.arrivals(then):
                left -= len(arrivals)
                self._admit(arrivals, work, waiting)
                # Pixels live in the arrivals: drop this hold on them before the next window is decoded.
                arrivals.clear()
                for lane in waiting:
                    waiting[lane] = self._start_full(lane, waiting[lane], work, is_last=not left)
            self._finish_running(work)
        finally:
            if work.running is not None:
                # The chunk is given up. What still runs must not meet the adapter that comes next.
                work.running[1].abandon()
        return ScoredChunk(
            tuple(work.outcomes[index] for index in range(len(refs))),
            tuple(outcome for _, outcome in sorted(work.challenger_outcomes.items())),
        )

    def _admit(self, arrivals: list[Arrival], work: _Work, waiting: dict[Lane, list[Waiting]]) -> None:
        """Queue images for all who score them; one that cannot be scored has its outcome at once."""
        for arrival in arrivals:
            if arrival.fetch_ms is not None:
                work.observer.fetched(arrival.fetch_ms)
            if arrival.decode_ms is not None:
                work.observer.decoded(arrival.decode_ms)
            if arrival.prepared is None:
                # Nobody could score it: one row says so.
                work.finish(work.champion, arrival.index, self._refused(arrival, work.champion, work.run_id))
                continue
            sides = (arrival.prepared.champion, arrival.prepared.challenger)
            for lane, prepared in zip(waiting, sides, strict=False):
                if isinstance(prepared, Exception):
                    failed = replace(arrival, error=prepared, stage="decode")
                    work.finish(lane, arrival.index, self._refused(failed, lane, work.run_id))
                elif prepared is not None:
                    waiting[lane].append(Waiting(arrival.index, arrival.ref, arrival.facts, prepared))

    def _start_full(self, lane: Lane, images: list[Waiting], work: _Work, *, is_last: bool) -> list[Waiting]:
        """Start micro-batches, and finish the one before each.

        Returns:
            The last one, seldom full, to be filled from the next window.
        """
        batches = lane.plan(images)
        rest = batches.pop() if batches and not is_last else []
        for batch in batches:
            begun = lane.start(batch)
            self._finish_running(work)
            work.running = (lane, begun)
        return rest

    def _finish_running(self, work: _Work) -> None:
        if work.running is None:
            return
        lane, running = work.running
        results = lane.finish(running, work.observer)
        work.running = None
        context = self._context(lane, work.run_id)
        for image, result in zip(running.batch, results, strict=True):
            work.finish(lane, image.index, _outcome(image, result, lane, context))

    def _fetch(self, ref: ImageRef) -> bytes:
        return read_image(ref, self._settings.max_file_bytes)

    def _context_of(self, ref: ImageRef) -> str | None:
        wanted = ref.context is None and self._settings.context_sidecars
        return sidecar_context(ref.image_uri) if wanted else ref.context

    def _room(self, ref: ImageRef) -> AbstractContextManager[None]:
        most = self._settings.max_file_bytes  # no more than this is ever read
        return self._files.hold(most if ref.size_bytes is None else min(ref.size_bytes, most))

    def _prepare(self, champion: Scorer, data: bytes, ref: ImageRef) -> _Prepared:
        room = self._pictures.hold
        prepared = champion.prepare(data, context=ref.context, room=room)
        challenger: PreparedImage | Exception | None = None
        if self._challenger is not None and self._challenger.takes(ref.image_uri):
            try:
                challenger = self._challenger.scorer.prepare(data, context=ref.context, room=room)
            except Exception as error:  # the champion's row must not suffer from it
                challenger = alone(error)
        return _Prepared(prepared, challenger)

    def _context(self, lane: Lane, run_id: str) -> FailureContext:
        return FailureContext(lane.identity, run_id, self._clock(), lane.provenance.role)

    def _refused(self, arrival: Arrival, lane: Lane, run_id: str) -> Outcome:
        if isinstance(arrival.error, ConfigurationError):
            raise arrival.error
        context = self._context(lane, run_id)
        if arrival.error is None:
            return listing_failure(arrival.ref, context)
        return failure_of(arrival.ref, arrival.error, context, stage=arrival.stage, facts=arrival.facts)


def _outcome(image: Waiting, result: Prediction | Exception, lane: Lane, context: FailureContext) -> Outcome:
    if isinstance(result, Prediction):
        who, now = lane.provenance, context.failed_at
        return ImageScore(image.ref, image.facts, result, who, context.run_id, now)
    used = image.prepared.context_used
    return failure_of(image.ref, result, context, facts=image.facts, context_used=used)


def default_fetch_threads() -> int:
    """One thread per core that this process may use, at least four: fetching waits more than it computes."""
    # A container, or taskset, may leave it fewer than the machine has; not every system tells.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(cores or 1, _FEWEST_THREADS)


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
            serving = factory.load()
            engine = Engine(
                serving.champion, settings, challenger=serving.challenger, follower=serving.follower
            )
            _ENGINES[(factory, settings)] = engine
        return engine


def release_engines() -> None:
    """Forget all engines, so that tests and long-lived processes can load others."""
    with _ENGINES_LOCK:
        _ENGINES.clear()
