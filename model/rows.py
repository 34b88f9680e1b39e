"""The state of a micro-batch between passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import torch
from torch.nn.functional import pad

from model.cache import SlotCache
from model.decisions import Decision

_Record = TypeVar("_Record", bound=Decision)


@dataclass
class Rows:
    """The rows of a batch, the program decided up to some step.

    Attributes:
        cache: Keys and values.
        valid: (rows, capacity) cells that later tokens may see.
        position: (rows,) next M-RoPE position.
        pending: (rows, width) decided tokens that are not fed yet.
        pending_count: (rows,) how many of them count.
        mass: (rows,) smallest mass of the allowed tokens so far.
        decisions: By step.
    """

    cache: SlotCache
    valid: torch.Tensor
    position: torch.Tensor
    pending: torch.Tensor
    pending_count: torch.Tensor
    mass: torch.Tensor
    decisions: list[Decision] = field(default_factory=list)

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What changes from pass to pass, beside the cache."""
        return self.valid, self.position, self.pending, self.pending_count, self.mass

    @property
    def shape(self) -> tuple[int, ...]:
        """Everything that decides the shapes of the passes to come."""
        return (*self.valid.shape, self.cache.length, self.pending.shape[1])

    def padded(self, batch: int, length: int) -> Rows:
        """The same rows with empty ones behind them, and columns skipped that nobody sees.

        Args:
            batch: Rows; as many as the cache has.
            length: Columns filled, the skipped ones counted.
        """
        more = batch - len(self.position)
        self.cache.skip_to(length)
        below = [0, 0, 0, more]
        return Rows(
            self.cache,
            pad(self.valid, below),
            pad(self.position, [0, more]),
            pad(self.pending, below),
            pad(self.pending_count, [0, more]),
            pad(self.mass, [0, more]),
            self.decisions,
        )

    def again(self) -> Rows:
        """Rows on the same memory that have decided nothing yet."""
        return Rows(self.cache.at(self.cache.length), *self.tensors)

    def copied(self) -> Rows:
        """Rows on memory of their own, the cache's excepted."""
        copy = Rows(
            self.cache.at(self.cache.length),
            self.valid.clone(),
            self.position.clone(),
            self.pending.clone(),
            self.pending_count.clone(),
            self.mass.clone(),
        )
        copy.decisions = [_copied(found) for found in self.decisions]
        return copy


def first_rows(decisions: Sequence[Decision], count: int) -> tuple[Decision, ...]:
    """The decisions of the first rows of a batch alone."""
    return tuple(
        replace(found, **{part.name: getattr(found, part.name)[:count] for part in fields(found)})
        for found in decisions
    )


def _copied(decision: _Record) -> _Record:
    return replace(decision, **{part.name: getattr(decision, part.name).clone() for part in fields(decision)})
