"""Pixels on their way to the device, while it computes the micro-batch before.

    sent = PixelStage(device).send(pictures)      # returns at once; the copy goes on by itself
    pictures = sent.take()                        # on the device, for what the current stream does from here

On CUDA the pictures of a micro-batch are packed into one of two page-locked buffers of the host, and copied
from there on a stream of their own. On a CPU nothing moves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, cycle, pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

_BUFFERS = 2


class Arrival(Protocol):
    """What ``torch.cuda.Event`` tells of a copy."""

    def synchronize(self) -> None:
        """Wait on the host until the copy is done."""


@dataclass(frozen=True)
class SentPixels:
    """Pictures that are on the device, or will be.

    Attributes:
        pictures: (height, width, 3) uint8 each, on the device.
        arrived: Fires when they are there; None where they always were.
    """

    pictures: tuple[torch.Tensor, ...]
    arrived: torch.cuda.Event | None = None

    def take(self) -> tuple[torch.Tensor, ...]:
        """Give the pictures to the current stream, which waits for them; the host does not."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.pictures[0].device)
            stream.wait_event(self.arrived)
            # All are one block, which the copying stream must not get back before this one is done with it.
            self.pictures[0].record_stream(stream)
        return self.pictures


class PixelStage:
    """Sends the pictures of micro-batches to a device. Thread-safe.

    Args:
        device: Where they go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = _CudaStage(device) if device.type == "cuda" else None

    def send(self, pictures: Sequence[NDArray[np.uint8]]) -> SentPixels:
        """Begin to copy pictures.

        Args:
            pictures: (height, width, 3) each, at least one. The caller may forget them at once.

        Raises:
            torch.OutOfMemoryError: The device has no room for them.
        """
        if self._cuda is not None:
            return self._cuda.send(pictures)
        return SentPixels(tuple(torch.from_numpy(picture) for picture in pictures))


class HostBuffers:
    """Buffers that take turns; one is written again only when what was sent from it has arrived.

    Args:
        allocate: Bytes → a uint8 tensor of so many, on the host.
        count: Of buffers.
    """

    def __init__(self, allocate: Callable[[int], torch.Tensor], count: int = _BUFFERS) -> None:
        self._turns = cycle([_Buffer(allocate) for _ in range(count)])
        self._choosing = threading.Lock()

    @contextmanager
    def packed(self, pictures: Sequence[NDArray[np.uint8]]) -> Iterator[_Packed]:
        """Hold a buffer with pictures behind each other in it; set ``arrived`` to what tells of the copy."""
        with self._choosing:
            buffer = next(self._turns)
        with buffer.lock:
            memory = buffer.room(sum(picture.nbytes for picture in pictures))
            np.concatenate([picture.reshape(-1) for picture in pictures], out=memory.numpy())
            packed = _Packed(memory)
            yield packed
            buffer.busy = packed.arrived


@dataclass
class _Packed:
    memory: torch.Tensor
    arrived: Arrival | None = None


class _Buffer:
    def __init__(self, allocate: Callable[[int], torch.Tensor]) -> None:
        self._allocate = allocate
        self._memory: torch.Tensor | None = None
        self.lock = threading.Lock()
        self.busy: Arrival | None = None

    def room(self, size: int) -> torch.Tensor:
        """Give so many bytes, nobody's; waits until they are."""
        if self.busy is not None:
            self.busy.synchronize()
            self.busy = None
        if self._memory is None or len(self._memory) < size:
            # Page-locking is slow: in powers of two, so that it happens a few times and no more.
            self._memory = self._allocate(1 << (size - 1).bit_length())
        return self._memory[:size]


class _CudaStage:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers = HostBuffers(lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True))

    def send(self, pictures: Sequence[NDArray[np.uint8]]) -> SentPixels:
        with self._buffers.packed(pictures) as packed, torch.cuda.stream(self._stream):
            # Outside inference mode: the tensors cross from thread to thread.
            there = packed.memory.to(self._device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
            packed.arrived = arrived
        bounds = pairwise(accumulate((picture.nbytes for picture in pictures), initial=0))
        shaped = zip(bounds, pictures, strict=True)
        return SentPixels(tuple(there[low:high].view(p.shape) for (low, high), p in shaped), arrived)
