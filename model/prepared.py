"""Images that are ready for the model: decoded and measured; and micro-batches of them on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.conversation import ContextIds
from model.patches import visual_tokens
from model.staging import SentPixels
from schemas.records import ImageFacts


@dataclass(frozen=True)
class PreparedImage:
    """One image, decoded and measured, ready for a micro-batch.

    Attributes:
        pixels: (height, width, 3) uint8, upright RGB at the adapter's pixel budget.
        facts: What reading it told.
        context: Ids and text of the context as the model will see it.
    """

    pixels: NDArray[np.uint8]
    facts: ImageFacts
    context: ContextIds

    @property
    def visual_tokens(self) -> int:
        """Merged visual tokens, 28 × 28 px each."""
        return visual_tokens(self.pixels.shape[0], self.pixels.shape[1])

    @property
    def context_used(self) -> str | None:
        """The context as the model will see it; None where it will see none."""
        return self.context.text


@dataclass(frozen=True)
class StagedBatch:
    """One micro-batch whose pixels are on the device, or on their way. Made by ``Scorer.stage``.

    Attributes:
        images: In order.
        pixels: Theirs.
    """

    images: tuple[PreparedImage, ...]
    pixels: SentPixels
