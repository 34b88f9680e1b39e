"""Fresh pictures for the vision tower, made beside its training: none is seen twice.

How well the tower sees depends most on the number of different pictures that it has seen; to store them all
would fill a disk to read every file once.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.images import decode_image, inspect_image
from model.patches import MERGE, PATCH
from schemas.annotations import Annotation
from schemas.manifest import ImageRule
from training.demo.dataset import Material
from training.demo.degradations import Severities
from training.demo.pictures import (
    Photo,
    degraded_picture,
    photograph_order,
    props,
    shrunk_photograph,
)

_PART = 64
"""Pictures that travel between processes at once."""
_PARTS_AHEAD = 3
"""For every process: so that none waits, and memory stays small."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A picture as the model sees it, and all that is known about it.

    Attributes:
        pixels: uint8 (height, width, 3), at the pixel budget.
        annotation: Labels.
        severities: What was done.
        zones: uint8 (visual tokens, ``pictures.ZONES``), row by row: what every token
            shows; 255 = nothing else.
    """

    pixels: npt.NDArray[np.uint8]
    annotation: Annotation
    severities: Severities
    zones: npt.NDArray[np.uint8]


def lessons(
    material: Material, rule: ImageRule, count: int, seed: int, processes: int = 1
) -> Iterator[Lesson]:
    """Make pictures, in an order and with a content that do not depend on the processes.

    Args:
        material: Photographs and cut-outs.
        rule: Pixel budget.
        count: Number of pictures.
        seed: Same seed, same pictures.
        processes: 1 = made in this one; more = made beside it, some pictures ahead.
    """
    numbered = list(enumerate(photograph_order(len(material.photographs), count, seed)))
    parts = [numbered[start : start + _PART] for start in range(0, count, _PART)]
    if processes == 1:
        workshop = _Workshop(material, rule, seed)
        for part in parts:
            yield from workshop.make(part)
        return
    # Spawned, not forked: this process may have threads, whose locks a fork would copy as they stand.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, context, initializer=_open, initargs=(material, rule, seed))
    try:
        waiting: deque[Future[list[Lesson]]] = deque()
        for part in parts:
            waiting.append(executor.submit(_make, part))
            if len(waiting) > _PARTS_AHEAD * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def token_grid(pixels: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Rows and columns of visual tokens."""
    return pixels.shape[0] // (PATCH * MERGE), pixels.shape[1] // (PATCH * MERGE)


def token_zones(zones: npt.NDArray[np.uint8], grid: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(tokens, zones): the zones of a picture as its visual tokens see them, row by row."""
    size = (grid[1], grid[0])
    parts = [np.asarray(Image.fromarray(zone).resize(size, Image.Resampling.BOX)) for zone in zones]
    return np.stack(parts, axis=-1).reshape(-1, len(zones))


class _Workshop:
    """Photographs and cut-outs in memory, no larger than needed."""

    def __init__(self, material: Material, rule: ImageRule, seed: int) -> None:
        files = material.photographs
        self._photographs: list[Photo] = [shrunk_photograph(file.read(), rule) for file in files]
        self._stock = props(material.cutouts, rule)
        self._rule, self._seed = rule, seed

    def make(self, part: Sequence[tuple[int, int]]) -> list[Lesson]:
        return [self._lesson(number, self._photographs[index]) for number, index in part]

    def _lesson(self, number: int, photograph: Photo) -> Lesson:
        made = degraded_picture(photograph, self._stock, number, self._rule, self._seed)
        pixels = decode_image(made.data, inspect_image(made.data), self._rule)
        return Lesson(pixels, made.annotation, made.severities, token_zones(made.zones, token_grid(pixels)))


_workshop: _Workshop | None = None
"""Of a worker process."""


def _open(material: Material, rule: ImageRule, seed: int) -> None:
    global _workshop
    # A worker whose parent was killed would wait for work for ever: its siblings keep the queue open.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _workshop = _Workshop(material, rule, seed)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


def _make(part: Sequence[tuple[int, int]]) -> list[Lesson]:
    assert _workshop is not None  # the initializer's work
    return _workshop.make(part)
