"""A folder or pattern that is listed again and again: the feed of a local ``--watch``."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from beam_pipeline.sources.inputs import describe, locate
from beam_pipeline.sources.live import StreamLostError
from beam_pipeline.stores.gcs_access import WILD
from beam_pipeline.stores.storage import is_remote, local_path
from schemas.records import ImageRef

_LOGGER = logging.getLogger(__name__)
_SETTLE_S = 1.0
"""A local file that changed more recently may still be being written: it is looked at again after this."""

_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)
_PATIENCE_S = 30.0
"""A place that is missing or refused for this long is lost: one that is swapped for another is missing for a
moment, and rights take a while to reach every server of a store."""


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
        # Now: without it, a name with brackets in it would later look like a pattern.
        self._folder = None if is_remote(pattern) else watched_folder(pattern)
        self._every_s = every_s
        # Hashes: a place may hold millions of images.
        self._known = {hash(key) for key in known}
        self._seen: set[int] = set()
        self.left_out = 0
        self._waiting: deque[ImageRef] = deque()
        self._young: list[ImageRef] = []
        self._look_again_at = self._next_listing = clock()
        self._refused_since: float | None = None
        self._ceased = False
        self._clock, self._now, self._sleep = clock, now, sleep

    def arrived(self, most: int, timeout_s: float) -> list[ImageRef]:
        """Give new images; see ``live.Feed``. Raises ``StreamLostError`` where the place is gone for good."""
        if not self._waiting and not self._ceased:
            due = min(self._next_listing, self._look_again_at) if self._young else self._next_listing
            wait_s = due - self._clock()
            if wait_s > timeout_s:
                self._sleep(timeout_s)
                return []
            self._sleep(max(wait_s, 0.0))
            self._look()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def settle(self, refs: Sequence[ImageRef]) -> None:
        """Do nothing: a place forgets nothing, and ``--skip-scored`` asks the output."""

    def cease(self) -> None:
        """List no more."""
        self._ceased = True

    def close(self) -> None:
        """Do nothing."""

    def note(self) -> str:
        """Nothing is left out."""
        return ""

    def _look(self) -> None:
        if self._clock() >= self._next_listing:
            self._list()
        else:
            young, self._young = self._young, []
            for found in young:
                # One that is gone was a temporary name: had it been listed later, nobody would know of it.
                if (ref := describe(found, self._now())).problem is None:
                    self._take(found, ref)
        self._look_again_at = self._clock() + _SETTLE_S

    def _list(self) -> None:
        self._young = []
        try:
            if self._folder is not None:
                # To a pattern a folder that is gone, or may not be read, looks like an empty one.
                os.scandir(self._folder).close()
            for found in locate(self._pattern):
                self._take(found, describe(found, self._now()))
            self._refused_since = None
        except OSError as error:  # a store that is away for a while must not end a stream
            self._refused(error)
        # After the listing: one that takes long must not follow on itself.
        self._next_listing = self._clock() + self._every_s

    def _refused(self, error: OSError) -> None:
        """Go on or raise; where this raises, the next look lists again."""
        reason = error.strerror or error
        if error.errno not in _LASTING:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = self._clock()
        elif self._clock() - self._refused_since >= _PATIENCE_S:
            raise StreamLostError(f"--watch {self._pattern}: can no longer be listed: {reason}") from error
        _LOGGER.warning("%s cannot be listed: %s; tried again in %g s", self._pattern, reason, self._every_s)

    def _take(self, found: ImageRef, ref: ImageRef) -> None:
        key = hash(ref.key)
        if key in self._seen:
            return
        if key in self._known:
            self._known.remove(key)
            self._seen.add(key)
            self.left_out += 1
            return
        if _is_young(ref, self._now()):
            self._young.append(found)
            return
        self._seen.add(key)
        self._waiting.append(ref)


def watched_folder(pattern: str) -> str:
    """The folder that a local place lies in: itself, or where its pattern begins; there it must be."""
    path = local_path(pattern)
    beginning, *wild = WILD.split(path, maxsplit=1)
    return (os.path.dirname(beginning) or ".") if wild and not os.path.exists(path) else path


def _is_young(ref: ImageRef, now: datetime) -> bool:
    # An object appears complete; a local file grows. One from the future (a wrong clock) does not wait.
    if ref.problem is not None or is_remote(ref.image_uri) or ref.event_time is None:
        return False
    return 0 <= (now - ref.event_time).total_seconds() < _SETTLE_S
