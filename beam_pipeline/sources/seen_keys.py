"""What arrived lately: keys and when they were seen, forgotten after a horizon."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import monotonic


class SeenKeys:
    """Remembers keys for a time. Not thread-safe.

    Args:
        horizon_s: A key is forgotten this long after it was first seen.
        clock: Seconds.
    """

    def __init__(self, horizon_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._horizon_s = horizon_s
        self._clock = clock
        self._times: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def is_new(self, key: Hashable) -> bool:
        """Say whether a key was not seen within the horizon, and remember it."""
        now = self._clock()
        while self._times and now - next(iter(self._times.values())) >= self._horizon_s:
            self._times.popitem(last=False)
        if key in self._times:
            return False
        self._times[key] = now
        return True
