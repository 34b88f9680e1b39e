"""Where a micro-batch's time goes, seen from outside: hooks on the vision tower and the language model.

On a GPU marks are CUDA events, read after everything has run: nothing waits for a mark, and the time between
two of them counts a device that waits for the host. A part that no hook sees (a replayed graph calls no
module) is missing, and its time is in the next part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from model.prepared import PreparedImage
from model.scorer import Scorer
from tests.benchmarks.devices import synchronise

PARTS = ("transfer", "vit", "prefill", "slots", "read")
"""Pixels to the device as patches; vision tower; first pass of the language model; the others with their
decisions; from decisions to predictions on the host."""


class _Clock:
    """Marks in order, by the name of the part that each of them ends; the first part begins at ``begin``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, Any]] = []
        self._seen: set[str] = set()

    def begin(self) -> None:
        self._seen.clear()
        self._marks.append(("begin", self._now()))

    def end(self, part: str) -> None:
        if part not in self._seen:
            self._seen.add(part)
            self._marks.append((part, self._now()))

    def end_again(self, part: str) -> None:
        """End a part that comes in several calls, one behind the other: with the last one."""
        if self._marks[-1][0] == part:
            self._marks.pop()
            self._seen.discard(part)
        self.end(part)

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self) -> dict[str, float]:
        """Sum of every part."""
        synchronise(self._device)
        found: dict[str, float] = {}
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            if part != "begin":
                found[part] = found.get(part, 0.0) + self._between(before, after)
        return found

    def _between(self, before: Any, after: Any) -> float:
        if self._device.type == "cuda":
            return float(before.elapsed_time(after)) / 1000
        return float(after - before)


def split_seconds(scorer: Scorer, batches: Sequence[Sequence[PreparedImage]]) -> dict[str, float]:
    """Score micro-batches; seconds of each part over all of them.

    Args:
        scorer: Warm: its prefix is in the cache, so the first pass of the language model is an image's.
        batches: As ``Scorer.predict`` takes them.
    """
    clock = _Clock(scorer.device)
    with _hooked(scorer, clock):
        for batch in batches:
            clock.begin()
            decisions = scorer.decide(batch)
            clock.end("slots")
            scorer.reader.read(decisions, [image.context_used for image in batch])
            clock.end("read")
    return clock.seconds()


@contextmanager
def _hooked(scorer: Scorer, clock: _Clock) -> Iterator[None]:
    model = scorer.decoder.model.model
    hooks = [
        model.visual.register_forward_pre_hook(lambda *_: clock.end("transfer")),
        model.visual.register_forward_hook(lambda *_: clock.end_again("vit")),
        model.language_model.register_forward_hook(lambda *_: clock.end("prefill")),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
