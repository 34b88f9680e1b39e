"""What bounds memory: a gate lets threads pass as long as what they hold together fits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class ByteGate:
    """Bytes that threads may hold together. First come, first served; never more than the limit.

    A thread must not ask the same gate twice: it could wait for itself. Where one gate is held while
    another is asked for, the order must be the same everywhere.

    Args:
        limit: Most bytes held at a time. Who asks for more than that goes alone.

    Raises:
        ValueError: The limit lets nothing pass.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a gate of {limit} bytes lets nothing pass")
        self._limit = limit
        self._held = 0
        self._holders = 0
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold so many bytes; waits until they fit and all who asked before have been let in."""
        self._enter(size)
        try:
            yield
        finally:
            with self._lock:
                self._give_back(size)

    def _enter(self, size: int) -> None:
        with self._lock:
            if not self._waiting and self._fits(size):
                self._take(size)
                return
            turn = threading.Event()
            self._waiting.append((size, turn))
        try:
            turn.wait()
        except BaseException:  # an interrupt: whoever stops waiting must not be let in later
            with self._lock:
                if turn.is_set():
                    self._give_back(size)
                else:
                    self._waiting.remove((size, turn))
                    self._let_in()
            raise

    def _give_back(self, size: int) -> None:
        self._held -= size
        self._holders -= 1
        self._let_in()

    def _let_in(self) -> None:
        # Only ever the first one: a small one that overtook would let a large one wait for good.
        while self._waiting:
            size, turn = self._waiting[0]
            if not self._fits(size):
                return
            self._waiting.popleft()
            self._take(size)
            turn.set()

    def _fits(self, size: int) -> bool:
        return not self._holders or self._held + size <= self._limit

    def _take(self, size: int) -> None:
        self._held += size
        self._holders += 1
