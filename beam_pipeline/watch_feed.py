"""A folder or pattern that is listed again and again: the feed of a local ``--watch``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from beam_pipeline.inputs import describe, locate
from beam_pipeline.storage import is_remote
from schemas.records import ImageRef

_SETTLE_S = 1.0
"""A local file that changed more recently may still be being written: it waits for the next listing."""


class WatchFeed:
    """Images that appear in a place, or change there; each version arrives once.

    Args:
        pattern: As for ``--input``.
        every_s: Seconds between two listings.
        known: Keys that need not arrive, as ``ImageRef.key``.
        clock: Seconds.
        now: UTC.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        pattern: str,
        every_s: float,
        known: Iterable[tuple[str, int]] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pattern = pattern
        self._every_s = every_s
        # Hashes: a place may hold millions of images.
        self._seen = {hash(key) for key in known}
        self._waiting: deque[ImageRef] = deque()
        self._next_listing = clock()
        self._clock, self._now, self._sleep = clock, now, sleep

    def arrived(self, most: int, timeout_s: float) -> list[ImageRef]:
        """Give new images; see ``live.Feed``."""
        if not self._waiting:
            wait_s = self._next_listing - self._clock()
            if wait_s > timeout_s:
                self._sleep(timeout_s)
                return []
            self._sleep(max(wait_s, 0.0))
            self._list()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def settle(self, refs: Sequence[ImageRef]) -> None:
        """Do nothing: a place forgets nothing, and ``--skip-scored`` asks the output."""

    def close(self) -> None:
        """Do nothing."""

    def note(self) -> str:
        """Nothing is left out."""
        return ""

    def _list(self) -> None:
        now = self._now()
        for found in locate(self._pattern):
            ref = describe(found, now)
            if hash(ref.key) in self._seen or _is_young(ref, now):
                continue
            self._seen.add(hash(ref.key))
            self._waiting.append(ref)
        # After the listing: one that takes long must not follow on itself.
        self._next_listing = self._clock() + self._every_s


def _is_young(ref: ImageRef, now: datetime) -> bool:
    # An object appears complete; a local file grows. One from the future (a wrong clock) does not wait.
    if ref.problem is not None or is_remote(ref.image_uri) or ref.event_time is None:
        return False
    return 0 <= (now - ref.event_time).total_seconds() < _SETTLE_S
