"""A key/value cache of fixed size, written in place.

The width of a slot program is known before it runs, so every pass writes into buffers made once, instead
of copying the whole cache to append to it.
"""

from __future__ import annotations

import torch


class SlotCache:
    """Keys and values of every layer, (batch, key heads, capacity, head dim) each.

    Speaks as much of transformers' ``Cache`` as Qwen2-VL's attention uses (``update``).
    ``length`` columns are filled; ``advance`` moves it once all layers have written a pass.
    """

    def __init__(self, batch: int, capacity: int) -> None:
        self.batch = batch
        self.capacity = capacity
        self.length = 0
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new columns behind ``length`` and return all columns up to them."""
        if layer_idx not in self._keys:
            shape = (self.batch, keys.shape[1], self.capacity, keys.shape[3])
            self._keys[layer_idx] = keys.new_empty(shape)
            self._values[layer_idx] = values.new_empty(shape)
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"a pass ends at column {end} of a cache of {self.capacity}")
        self._keys[layer_idx][:, :, self.length : end] = keys
        self._values[layer_idx][:, :, self.length : end] = values
        return self._keys[layer_idx][:, :, :end], self._values[layer_idx][:, :, :end]

    def advance(self, columns: int) -> None:
        """Count a pass's columns as filled."""
        self.length += columns

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
