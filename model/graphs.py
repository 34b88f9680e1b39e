"""Slot passes recorded once and replayed: a CUDA graph instead of a thousand launches a pass.

Behind the first pass, which is as wide as it must be, rows and columns are padded to one of few shapes
(``model.buckets``), and everything else follows from it: how wide every pass is, and where its keys and
values go. So the passes from the second step up to the first free text, which asks the host at every token,
are one recording for each shape. It works on fixed memory: state is copied in before a replay and out behind
it; keys and values lie on memory that stays.

A recording computes with the weights at the addresses that it saw. Merging writes in place and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch

from model.cache import CacheStorage
from model.rows import Rows


class Recorder(Protocol):
    """Records work on fixed memory."""

    def record(self, work: Callable[[], None], restore: Callable[[], None]) -> Callable[[], None]:
        """Record ``work``; returns what replays it.

        Args:
            work: Reads and writes the same memory at every call; may be called several times.
            restore: Puts its inputs back as they were; called before every call of ``work``.
        """

    def forget(self) -> None:
        """Every recording made so far will be dropped; none of them may still be running afterwards."""


class CudaRecorder:
    """Records CUDA graphs; all share one memory pool, since one runs at a time.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None], restore: Callable[[], None]) -> Callable[[], None]:
        """See ``Recorder``."""
        with torch.cuda.device(self._device):
            self._warm_up(work, restore)
            graph = torch.cuda.CUDAGraph()
            restore()
            # Other threads go on decoding photographs and copying them: only this one must keep to the rules.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                work()
        return graph.replay

    def _warm_up(self, work: Callable[[], None], restore: Callable[[], None]) -> None:
        # Libraries make their handles and workspaces at first use, which a recording must not hold.
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                restore()
                work()
        current.wait_stream(self._stream)

    def forget(self) -> None:
        """See ``Recorder``."""
        torch.cuda.synchronize(self._device)


@dataclass
class _Recording:
    start: Rows
    end: Rows
    replay: Callable[[], None]

    def run(self, rows: Rows) -> Rows:
        _load(self.start, rows)
        self.replay()
        return self.end.copied()


class RecordedSteps:
    """Takes rows through steps by replaying what was recorded for their shape.

    Args:
        recorder: Makes recordings.
        steps: Takes rows through the steps, in place; it must not look at the device's numbers.
        addresses: Tells where the weights lie; recordings are dropped when that changes.
    """

    def __init__(
        self, recorder: Recorder, steps: Callable[[Rows], None], addresses: Callable[[], Hashable]
    ) -> None:
        self.storage = CacheStorage()
        self._recorder = recorder
        self._steps = steps
        self._addresses = addresses
        self._seen: Hashable = None
        self._recordings: dict[tuple[int, ...], _Recording] = {}

    def __len__(self) -> int:
        """Recordings held."""
        return len(self._recordings)

    def run(self, rows: Rows) -> Rows:
        """Take rows through the steps.

        Args:
            rows: Their cache lies on ``storage``; they keep what they have decided so far.

        Returns:
            The same rows behind the steps, on memory that the next run does not touch (the cache's excepted).
        """
        seen = self.storage.generation, self._addresses()
        if seen != self._seen:
            if self._recordings:
                self._recorder.forget()
            self._recordings.clear()
            self._seen = seen
        if rows.shape not in self._recordings:
            self._recordings[rows.shape] = self._record(rows)
        found = self._recordings[rows.shape].run(rows)
        found.decisions[:0] = rows.decisions
        return found

    def _record(self, rows: Rows) -> _Recording:
        start = rows.copied()
        start.decisions.clear()
        recording = _Recording(start, start, lambda: None)

        def work() -> None:
            recording.end = start.again()
            self._steps(recording.end)

        recording.replay = self._recorder.record(work, lambda: _load(start, rows))
        return recording


def _load(into: Rows, rows: Rows) -> None:
    for there, here in zip(into.tensors, rows.tensors, strict=True):
        there.copy_(here)
