"""A chunk whose turn it is, with the one that comes after it: what the engine is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.records import Chunk

if TYPE_CHECKING:
    from beam_pipeline.scoring.lanes import Lane
    from beam_pipeline.scoring.prefetch import WindowsAhead


@dataclass(slots=True)
class Turn:
    """A chunk and, where it is known in time, what the same thread brings next.

    Attributes:
        chunk: To be scored.
        following: Whose first images may be prepared while the last ones of this chunk are scored.
        begun: What was prepared of this chunk while the one before it was scored, and for whom. Set by the
            engine before the turn is handed to it.
    """

    chunk: Chunk
    following: Turn | None = field(default=None, repr=False, compare=False)
    begun: tuple[Lane, WindowsAhead] | None = field(default=None, repr=False, compare=False)
