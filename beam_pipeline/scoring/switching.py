"""Another adapter takes over while chunks come and go.

A chunk is bound to one adapter from its first image to its last: its pixels are prepared for that
adapter's budget, and one file of rows has one revision. So adapters change between chunks, in place:

    look        at the pointer, at most every few seconds, by the thread that is about to start a chunk
    prepare     read, verify and compile the new adapter, its weights in host memory; others go on scoring
    wait        until the chunks in work have ended; new ones wait at the gate
    switch      base tensors from their host copy, bit by bit, and the new adapter merged into them

**Why no thread of its own looks**: an idle worker need not poll, Beam's metrics exist in Beam's threads
only, and a look costs one small read. **Why no second copy of the model**: it would need its whole size
again on the device, to save a pause that comes as often as somebody publishes an adapter: the end of the
chunks in work, and writing the changed tensors once (a few milliseconds for the embedded model; for a 7B
about 13 GB over PCIe, single seconds). How long it was is measured (``adapter_switch_ms``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from time import perf_counter

from beam_pipeline.scoring.failures import is_device_lost
from beam_pipeline.scoring.lanes import Lane
from beam_pipeline.scoring.observers import Observer
from beam_pipeline.scoring.scorers import AdapterFollower, Scorer
from schemas.errors import ConfigurationError

_LOGGER = logging.getLogger(__name__)


class ChunkGate:
    """Lets chunks in together, or one switch alone. A switch that waits goes before chunks that come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._chunks = 0
        self._closed = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Hold for a chunk; waits while a switch waits or works."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._chunks += 1
        try:
            yield
        finally:
            with self._changed:
                self._chunks -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold for a switch, one at a time; waits until the last chunk has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            try:
                self._changed.wait_for(lambda: not self._chunks)
            except BaseException:  # an interrupt: nobody would open the gate again
                self._open()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._open()

    def _open(self) -> None:
        self._closed = False
        self._changed.notify_all()


class ServingLane:
    """The lane of the adapter that serves now, and its replacement by the one that a pointer names.

    Args:
        lane: Of the adapter that was loaded first.
        follower: Looks at the pointer; None where the adapter stays.
        poll_s: Least time between two looks, seconds.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, lane: Lane, follower: AdapterFollower | None, poll_s: float, clock: Callable[[], float]
    ) -> None:
        self._lane = lane
        self._follower = follower
        self._poll_s = poll_s
        self._clock = clock
        self._next_look = clock() + poll_s
        self._served = follower.loaded if follower else ""
        self._refused: str | None = None
        self._complaint: Hashable = None
        self._looking = threading.Lock()
        self._gate = ChunkGate()

    @contextmanager
    def bound(self) -> Iterator[Lane]:
        """Give the lane that serves; it serves until the block ends."""
        with self._gate.together():
            yield self._lane

    def follow(self, observer: Observer) -> None:
        """Look at the pointer if it is time, and switch if it names another adapter. Not within ``bound``.

        What cannot serve is refused: the adapter in place goes on, one warning is logged, and the same
        content of the pointer is not tried again. What could only not be read now is tried at every look.

        Raises:
            Exception: The device is lost.
        """
        if self._follower is None or not self._looking.acquire(blocking=False):
            return  # or another thread looks: this chunk goes with what serves
        try:
            if self._clock() >= self._next_look:
                self._look(self._follower, observer)
                self._next_look = self._clock() + self._poll_s
        finally:
            self._looking.release()

    def _look(self, follower: AdapterFollower, observer: Observer) -> None:
        try:
            said = follower.look()
        except OSError as error:
            self._complain((None, type(error).__name__), f"the pointer cannot be read: {error}", observer)
            return
        if said == self._served:
            self._refused = self._complaint = None
        elif said != self._refused:
            self._try(said, follower, observer)

    def _try(self, said: str, follower: AdapterFollower, observer: Observer) -> None:
        try:
            take_over = follower.prepare(said, self._lane.scorer)
        except ConfigurationError as error:
            self._refuse(said, error, observer)
            return
        except Exception as error:  # of a store or a full disk: the adapter in place can still serve
            if is_device_lost(error):
                raise
            kind = type(error).__name__
            self._complain((said, kind), f"{kind}: {error}; it is tried again", observer)
            return
        try:
            if take_over is not None:
                self._switch(take_over, observer)
        except ConfigurationError as error:
            self._refuse(said, error, observer)
        else:
            self._served = said
            self._refused = self._complaint = None

    def _refuse(self, said: str, error: ConfigurationError, observer: Observer) -> None:
        self._refused = said
        self._complain((said, error.reasons), "; ".join(error.reasons), observer)

    def _switch(self, take_over: Callable[[], Scorer], observer: Observer) -> None:
        start = perf_counter()
        with self._gate.alone():
            self._lane = self._lane.followed_by(take_over())
        observer.adapter_switched((perf_counter() - start) * 1000)
        identity = self._lane.identity
        _LOGGER.info("adapter %s (%s) serves from here", identity.name, identity.revision[:12])

    def _complain(self, key: Hashable, reason: str, observer: Observer) -> None:
        if key == self._complaint:
            return
        self._complaint = key
        observer.adapter_switch_failed()
        identity = self._lane.identity
        _LOGGER.warning(
            "adapter %s (%s) stays, the one that the pointer names cannot serve: %s",
            identity.name, identity.revision[:12], reason,
        )  # fmt: skip
