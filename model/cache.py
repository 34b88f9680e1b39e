"""A key/value cache of fixed size, written in place.

The width of a slot program is known before it runs, so every pass writes into buffers made once, instead
of copying the whole cache to append to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class CacheStorage:
    """Memory for keys and values that outlives a micro-batch, so that equal shapes get equal addresses.

    Attributes:
        generation: Counts up whenever memory moves.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._memory: dict[tuple[str, int], torch.Tensor] = {}

    def take(self, kind: str, layer: int, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Give a tensor on memory that the last one of this kind and layer lay on, too."""
        size = math.prod(shape)
        memory = self._memory.get((kind, layer))
        if memory is None or len(memory) < size or memory.dtype != like.dtype:
            memory = self._memory[kind, layer] = like.new_empty(size)
            self.generation += 1
        return memory[:size].view(*shape)


class SlotCache:
    """Keys and values of every layer, (batch, key heads, capacity, head dim) each.

    A pass may have fewer rows than the cache: it writes and gets the first ones.
    Speaks as much of transformers' ``Cache`` as Qwen2-VL's attention uses (``update``).
    ``length`` columns are filled; ``advance`` moves it once all layers have written a pass.

    Args:
        batch: Rows.
        capacity: Columns.
        storage: Where keys and values lie; None = on memory of their own.
    """

    def __init__(self, batch: int, capacity: int, storage: CacheStorage | None = None) -> None:
        self.batch = batch
        self.capacity = capacity
        self.length = 0
        self._storage = storage
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def at(self, length: int) -> SlotCache:
        """The same memory with ``length`` columns filled."""
        other = SlotCache(self.batch, self.capacity, self._storage)
        other._keys, other._values, other.length = self._keys, self._values, length
        return other

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new columns behind ``length`` and return all columns up to them, of its rows."""
        if layer_idx not in self._keys:
            shape = (self.batch, keys.shape[1], self.capacity, keys.shape[3])
            self._keys[layer_idx] = self._make("keys", layer_idx, shape, keys)
            self._values[layer_idx] = self._make("values", layer_idx, shape, values)
        rows, end = len(keys), self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"a pass ends at column {end} of a cache of {self.capacity}")
        self._keys[layer_idx][:rows, :, self.length : end] = keys
        self._values[layer_idx][:rows, :, self.length : end] = values
        return self._keys[layer_idx][:rows, :, :end], self._values[layer_idx][:rows, :, :end]

    def _make(self, kind: str, layer: int, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        if self._storage is None:
            return like.new_empty(shape)
        return self._storage.take(kind, layer, shape, like)

    def advance(self, columns: int) -> None:
        """Count a pass's columns as filled."""
        self.length += columns

    def skip_to(self, length: int) -> None:
        """Go on at a later column. Those between must be masked, and hold zeros: masked NaN would count."""
        for memory in (*self._keys.values(), *self._values.values()):
            memory[:, :, self.length : length].zero_()
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Filled columns."""
        return self.length

    def start_with(self, prefix: SlotCache) -> None:
        """Fill the first columns of every row with a prefix computed once (batch 1)."""
        self.length = 0
        for layer in prefix._keys:
            keys = prefix._keys[layer][:, :, : prefix.length].expand(self.batch, -1, -1, -1)
            values = prefix._values[layer][:, :, : prefix.length].expand(self.batch, -1, -1, -1)
            self.update(keys, values, layer)
        self.length = prefix.length
