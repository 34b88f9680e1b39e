"""A stream on one machine: what has arrived is scored round by round, each round a bounded job.

Beam's local runners cannot be trusted with an unbounded graph: ``FnApiRunner`` fires nothing before its
source ends, and ``BundleBasedDirectRunner`` drops timers that fall due between two looks of its monitor
thread (2 of 22 elements of a test went missing at the end of a stream that buffered by time) and
acknowledges messages before they are processed. A round runs the very stages of a batch job over the refs
that have arrived; only when its rows are written is the feed told that they are settled. So a process
that is killed at any moment loses nothing: what was not settled arrives again.

No Beam in here: how a round is run is handed in.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from schemas.errors import ConfigurationError
from schemas.records import ImageRef

_LOGGER = logging.getLogger(__name__)
_LOOK_S = 0.5
"""Most seconds between two looks at ``stop``."""


class StreamLostError(Exception):
    """A stream on this machine cannot go on, and waiting will not help; its message is one sentence."""


class Feed(Protocol):
    """Where a local stream's images come from.

    Attributes:
        left_out: Images that did not arrive because they have scores already.
    """

    left_out: int

    def arrived(self, most: int, timeout_s: float) -> list[ImageRef]:
        """Give images that arrived, described, each once; waits for the first at most ``timeout_s``.

        Raises:
            StreamLostError: No more will come, and all that arrived was given.
        """

    def settle(self, refs: Sequence[ImageRef]) -> None:
        """Hear that the rows of these images are written."""

    def cease(self) -> None:
        """Bring nothing new from here on; what has arrived is still given. May be called again."""

    def close(self) -> None:
        """End; what is not settled may arrive again."""

    def note(self) -> str:
        """Say in a few words what was left out and why; empty where nothing was."""


@dataclass(frozen=True)
class RoundPlan:
    """How a stream is cut into rounds.

    Attributes:
        images: Most images of a round.
        wait_s: A round begins this long after its first image arrived, full or not.
        idle_s: The stream ends when nothing has arrived for this long; None = never.
        attempts: A round that fails is run this often in all, before the stream fails with it.
        pause_s: Before the second attempt; doubles.
    """

    images: int
    wait_s: float
    idle_s: float | None = None
    attempts: int = 4
    pause_s: float = 1.0


def follow(
    feed: Feed,
    run_round: Callable[[tuple[ImageRef, ...]], None],
    plan: RoundPlan,
    stop: threading.Event,
    *,
    clock: Callable[[], float] = monotonic,
) -> int:
    """Score what a feed brings until it is told to stop, or idle for long enough.

    Args:
        feed: Where images come from.
        run_round: Scores refs and writes their rows; may be called again with the same ones.
        plan: Sizes and times.
        stop: Set to end the stream: what has arrived is scored first.
        clock: Seconds.

    Returns:
        Rounds run.

    Raises:
        ConfigurationError: As raised by a round, at once.
        StreamLostError: As raised by the feed, when all that had arrived is settled.
        Exception: What a round raised at its last attempt; its images are not settled.
    """
    rounds = 0
    last_arrival = clock()
    while True:
        if stop.is_set():
            feed.cease()  # a busy place would bring more during every round, and never let go
        refs = _collect(feed, plan, stop, clock)
        if refs:
            _run(run_round, refs, plan, stop)
            feed.settle(refs)
            rounds += 1
            last_arrival = clock()
        elif stop.is_set() or (plan.idle_s is not None and clock() - last_arrival >= plan.idle_s):
            return rounds


def _collect(
    feed: Feed, plan: RoundPlan, stop: threading.Event, clock: Callable[[], float]
) -> tuple[ImageRef, ...]:
    """Gather one round; empty after one look without an arrival."""
    refs = feed.arrived(plan.images, 0.0 if stop.is_set() else _LOOK_S)
    closes_at = clock() + plan.wait_s
    with suppress(StreamLostError):  # raised again by the next look, when these are settled
        while refs and len(refs) < plan.images and not stop.is_set() and (left := closes_at - clock()) > 0:
            refs += feed.arrived(plan.images - len(refs), min(left, _LOOK_S))
    return tuple(refs)


def _run(
    run_round: Callable[[tuple[ImageRef, ...]], None],
    refs: tuple[ImageRef, ...],
    plan: RoundPlan,
    stop: threading.Event,
) -> None:
    for attempt in range(1, plan.attempts + 1):
        try:
            return run_round(refs)
        except ConfigurationError:
            raise
        except Exception as error:  # an output that is briefly away must not end a stream
            if attempt == plan.attempts:
                raise
            _LOGGER.warning("round of %d images failed, attempt %d: %s", len(refs), attempt, error)
            stop.wait(plan.pause_s * 2 ** (attempt - 1))
    return None
