"""The seam between the pipeline and the model: what the engine needs, and how workers get it.

``ModelScorerFactory`` gives the real thing; ``beam_pipeline.fakes`` ships one without a model. Torch is
imported when a scorer is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from beam_pipeline.adapters import read_identity
from beam_pipeline.failures import AdapterIdentity
from model.images import ImageLimits
from schemas.records import ImageFacts, Prediction, Provenance


class PreparedImage(Protocol):
    """What the engine reads of a prepared image; the rest is the scorer's own."""

    @property
    def facts(self) -> ImageFacts:
        """What reading the bytes told."""

    @property
    def visual_tokens(self) -> int:
        """Merged visual tokens: what the image costs in a micro-batch."""

    @property
    def context_used(self) -> str | None:
        """The context as the model will see it."""


class Scorer(Protocol):
    """What the engine needs of ``model.scorer.Scorer``; ``beam_pipeline.fakes`` ships another."""

    @property
    def provenance(self) -> Provenance:
        """Who scores; the same for all rows."""

    @property
    def token_budget(self) -> int:
        """Visual tokens of a micro-batch that suit the device."""

    def prepare(self, data: bytes, *, context: str | None = None) -> Any:
        """Make a ``PreparedImage``: thread-safe, on the CPU. Raises ``DecodeError``."""

    def predict(self, prepared: Sequence[Any]) -> list[Prediction]:
        """Score one micro-batch, in its order."""


class ScorerFactory(Hashable, Protocol):
    """Makes the scorer on the worker; travels with the job, and is the key of the pinned engine."""

    def identity(self) -> AdapterIdentity:
        """Read the adapter's name and revision, without loading it."""

    def load(self) -> Scorer:
        """Load it. Raises ``ConfigurationError``."""


@dataclass(frozen=True)
class ModelScorerFactory:
    """Loads ``model.scorer.Scorer``.

    Attributes:
        adapter: Directory of the adapter; None = the embedded one.
        base_model: Name or path; None = what the adapter's manifest names.
        template: Answer template; None = the adapter's default.
        device: ``auto``, ``cpu`` or ``cuda[:N]``, resolved on the worker.
        dtype: Of the weights; None = what suits the device.
        limits: What is refused before decoding.
    """

    adapter: str | None
    base_model: str | None
    template: str | None
    device: str
    dtype: str | None
    limits: ImageLimits

    def identity(self) -> AdapterIdentity:
        """Read the adapter's manifest. Raises ``ConfigurationError``."""
        return read_identity(self.adapter)

    def load(self) -> Scorer:
        """Load base model and adapter. Raises ``ConfigurationError``."""
        from model.scorer import Scorer as ModelScorer

        scorer: Scorer = ModelScorer.load(
            self.adapter,
            base_model=self.base_model,
            template=self.template,
            device=self.device,
            dtype=self.dtype,
            limits=self.limits,
        )
        return scorer
