"""Fetching and preparing images ahead of the model, in threads, a bounded number at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
        ref: The ref.
        prepared: What the scorer made of it; None where something failed.
        facts: As far as known.
        error: What failed, if anything; ``stage`` says where.
        stage: ``list`` for a ref that carries a listing problem, which is never fetched.
        fetch_ms: Time that reading took, where it was read.
        decode_ms: Time that checking, decoding and tokenising took, where it came so far.
    """

    index: int
    ref: ImageRef
    prepared: Any = None
    facts: ImageFacts = _NOTHING_KNOWN
    error: Exception | None = None
    stage: Stage = "list"
    fetch_ms: float | None = None
    decode_ms: float | None = None


@dataclass(frozen=True)
class Preparer:
    """Turns a ref into an arrival; never raises for one image. Called in threads.

    Attributes:
        fetch: Ref → bytes.
        prepare: Bytes and context → what the scorer takes.
    """

    fetch: Callable[[ImageRef], bytes]
    prepare: Callable[[bytes, str | None], Any]

    def __call__(self, index: int, ref: ImageRef) -> Arrival:
        """Fetch and prepare one ref."""
        if ref.problem is not None:
            return Arrival(index, ref)
        start = perf_counter()
        try:
            data = self.fetch(ref)
        except Exception as error:  # whatever is wrong with one image must not cost its neighbours
            return Arrival(index, ref, error=error, stage="fetch")
        fetched = perf_counter()
        fetch_ms = (fetched - start) * 1000
        try:
            prepared = self.prepare(data, ref.context)
        except Exception as error:  # as above; the type is kept in the row
            facts = ImageFacts(image_id=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            return Arrival(index, ref, facts=facts, error=error, stage="decode", fetch_ms=fetch_ms)
        return Arrival(
            index,
            ref,
            prepared=prepared,
            facts=prepared.facts,
            stage="score",
            fetch_ms=fetch_ms,
            decode_ms=(perf_counter() - fetched) * 1000,
        )


def windows_ahead(
    refs: Sequence[ImageRef], prepare: Preparer, pool: ThreadPoolExecutor, window: int
) -> Iterator[list[Arrival]]:
    """Prepare refs window by window; while the caller works on one, the next is being prepared.

    Yields:
        Arrivals in the order of the refs, ``window`` at a time. So the composition of micro-batches
        does not depend on which thread was faster, and at most two windows are in memory.
    """
    indexed = list(enumerate(refs))
    starts = range(0, len(indexed), window)
    ahead: list[Future[Arrival]] = []

    def submit(start: int) -> list[Future[Arrival]]:
        return [pool.submit(prepare, index, ref) for index, ref in indexed[start : start + window]]

    try:
        for start in starts:
            current = ahead or submit(start)
            ahead = submit(start + window)
            yield [future.result() for future in current]
            del current
    finally:
        for future in ahead:
            future.cancel()
