"""Fetching and preparing images ahead of the model, in threads, a bounded number at a time."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from time import perf_counter
from typing import Any

from schemas.errors import Stage
from schemas.records import ImageFacts, ImageRef

_NOTHING_KNOWN = ImageFacts()


@dataclass(frozen=True)
class Arrival:
    """One ref after fetching and preparing.

    Attributes:
        index: Its place in the chunk.
        ref: The ref; once its bytes are read, with the context that was found beside them.
        prepared: What the scorer made of it; None where something failed.
        facts: As far as known.
        error: What failed, if anything; ``stage`` says where.
        stage: ``list`` for a ref that carries a listing problem, which is never fetched.
        fetch_ms: Time that reading took, where it was read.
        decode_ms: Time that checking, decoding and tokenising took, with waiting for room to decode, where
            it came so far.
    """

    index: int
    ref: ImageRef
    prepared: Any = None
    facts: ImageFacts = _NOTHING_KNOWN
    error: Exception | None = None
    stage: Stage = "list"
    fetch_ms: float | None = None
    decode_ms: float | None = None


def _own_context(ref: ImageRef) -> str | None:
    return ref.context


def _any_room(ref: ImageRef) -> AbstractContextManager[None]:
    return nullcontext()


def alone(error: Exception) -> Exception:
    """Free an error from what it holds: tracebacks keep a file's bytes, whose room has been given back."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


@dataclass(frozen=True)
class Preparer:
    """Turns a ref into an arrival; never raises for one image. Called in threads.

    Attributes:
        fetch: Ref → bytes.
        prepare: Bytes and ref, context included → what the scorer takes.
        context_of: Ref → its context, which may lie beside the image.
        room: Ref → held from before its bytes are read until they are prepared; may wait.
    """

    fetch: Callable[[ImageRef], bytes]
    prepare: Callable[[bytes, ImageRef], Any]
    context_of: Callable[[ImageRef], str | None] = _own_context
    room: Callable[[ImageRef], AbstractContextManager[None]] = _any_room

    def __call__(self, index: int, ref: ImageRef) -> Arrival:
        """Fetch and prepare one ref."""
        if ref.problem is not None:
            return Arrival(index, ref)
        with self.room(ref):
            return self._arrival(index, ref)

    def _arrival(self, index: int, ref: ImageRef) -> Arrival:
        start = perf_counter()
        try:
            data = self.fetch(ref)
            context = self.context_of(ref)
            if context != ref.context:
                ref = replace(ref, context=context)
        except Exception as error:  # whatever is wrong with one image must not cost its neighbours
            return Arrival(index, ref, error=alone(error), stage="fetch")
        fetched = perf_counter()
        fetch_ms = (fetched - start) * 1000
        try:
            prepared = self.prepare(data, ref)
        except Exception as error:  # as above; the type is kept in the row
            facts = ImageFacts(image_id=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            return Arrival(index, ref, facts=facts, error=alone(error), stage="decode", fetch_ms=fetch_ms)
        return Arrival(
            index,
            ref,
            prepared=prepared,
            facts=prepared.facts,
            stage="score",
            fetch_ms=fetch_ms,
            decode_ms=(perf_counter() - fetched) * 1000,
        )


class WindowsAhead:
    """Refs that are prepared window by window; while the caller works on one, the next is being prepared.

    The first window is a quarter as large, and the second half: the caller waits for the first. At most two
    windows are in memory.

    Args:
        refs: Of a chunk.
        prepare: Makes an arrival of each.
        pool: Where it runs.
        window: Most refs of a window.
    """

    def __init__(
        self, refs: Sequence[ImageRef], prepare: Preparer, pool: ThreadPoolExecutor, window: int
    ) -> None:
        self._rest = iter(enumerate(refs))
        self._sizes = chain((max(window // part, 1) for part in (4, 2)), repeat(window))
        self._prepare = prepare
        self._pool = pool
        self._ahead: deque[list[Future[Arrival]]] = deque()

    def begin(self) -> None:
        """Have the first two windows prepared. Once, before they are asked for; ``arrivals`` does it, too."""
        self._submit()
        self._submit()

    def arrivals(self, then: Callable[[], None]) -> Iterator[list[Arrival]]:
        """Give the windows, once.

        Args:
            then: Is called when all refs, if there are any, are on their way, so that what comes after them
                can follow.

        Yields:
            Arrivals in the order of the refs, at most ``window`` at a time. So the composition of
            micro-batches does not depend on which thread was faster.
        """
        try:
            if not self._ahead:
                self.begin()
            while self._ahead:
                current = self._ahead.popleft()
                if not self._ahead and not self._submit():
                    then()
                yield [future.result() for future in current]
                del current
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Prepare nothing more than what is being prepared at this moment."""
        for future in chain.from_iterable(self._ahead):
            future.cancel()

    def __del__(self) -> None:
        # Of a chunk that was begun ahead, and whose bundle failed before its turn came.
        self.abandon()

    def _submit(self) -> bool:
        refs = islice(self._rest, next(self._sizes))
        window = [self._pool.submit(self._prepare, index, ref) for index, ref in refs]
        if window:
            self._ahead.append(window)
        return bool(window)
