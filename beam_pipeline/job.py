"""One job: its options, where its scorer comes from, and when it started."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from beam_pipeline.engine import EngineSettings
from beam_pipeline.failures import AdapterIdentity
from beam_pipeline.options import ScoringOptions
from beam_pipeline.scorers import ModelScorerFactory, ScorerFactory
from model.images import ImageLimits


@dataclass(frozen=True)
class Job:
    """What the stages of the pipeline are built from.

    Attributes:
        options: As given.
        factory: Makes the scorer on the worker.
        started_at: UTC; the event time of images that have none of their own.
    """

    options: ScoringOptions
    factory: ScorerFactory
    started_at: datetime

    @cached_property
    def adapter(self) -> AdapterIdentity:
        """Which adapter scores. Raises ``ConfigurationError``."""
        return self.factory.identity()

    def engine_settings(self) -> EngineSettings:
        """The options that size the engine."""
        return EngineSettings(
            fetch_threads=self.options.fetch_threads,
            prefetch_images=self.options.prefetch_images,
            micro_batch_images=self.options.micro_batch_images,
            token_budget=self.options.token_budget,
            max_file_bytes=self.options.max_file_bytes,
        )


def model_factory(options: ScoringOptions) -> ModelScorerFactory:
    """The factory of the real scorer that the options ask for."""
    return ModelScorerFactory(
        adapter=options.adapter,
        base_model=options.base_model,
        template=options.template,
        device=options.device,
        dtype=options.dtype,
        limits=ImageLimits(
            max_file_bytes=options.max_file_bytes, max_decoded_pixels=options.max_decoded_pixels
        ),
    )
