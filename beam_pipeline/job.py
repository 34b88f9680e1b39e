"""One job: its options, where its scorer comes from, and when it started."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from beam_pipeline.options import ScoringOptions
from beam_pipeline.scoring.engine import EngineSettings
from beam_pipeline.scoring.failures import AdapterIdentity
from beam_pipeline.scoring.scorers import ModelScorerFactory, ScorerFactory
from model.images import ImageLimits
from schemas.records import ImageRef


@dataclass(frozen=True)
class Job:
    """What the stages of the pipeline are built from.

    Attributes:
        options: As given.
        factory: Makes the scorer on the worker.
        started_at: UTC; the event time of images that have none of their own.
        arrived: The images of one round of a stream (``beam_pipeline.sources.live``), in place of the
            source that the options name; None = read that source.
        adapter_at_start: Which adapter served when the job began; None = look. A pointer may name another
            one since, or nothing that can serve.
    """

    options: ScoringOptions
    factory: ScorerFactory
    started_at: datetime
    arrived: tuple[ImageRef, ...] | None = None
    adapter_at_start: AdapterIdentity | None = None

    @property
    def is_stream(self) -> bool:
        """Whether its source has no end."""
        return self.options.subscription is not None or self.options.watch is not None

    @cached_property
    def adapter(self) -> AdapterIdentity:
        """Which adapter scores, or did when the job began. Raises ``ConfigurationError``."""
        return self.adapter_at_start or self.factory.identity()

    def engine_settings(self) -> EngineSettings:
        """The options that size the engine."""
        return EngineSettings(
            fetch_threads=self.options.fetch_threads,
            prefetch_images=self.options.prefetch_images,
            micro_batch_images=self.options.micro_batch_images,
            token_budget=self.options.token_budget,
            max_file_bytes=self.options.max_file_bytes,
            in_flight_bytes=self.options.in_flight_bytes,
            context_sidecars=self.options.context_sidecars,
            adapter_poll_s=self.options.adapter_poll_s,
        )


def model_factory(options: ScoringOptions) -> ModelScorerFactory:
    """The factory of the real scorer that the options ask for."""
    return ModelScorerFactory(
        adapter=options.adapter,
        base_model=options.base_model,
        template=options.template,
        device=options.device,
        dtype=options.dtype,
        fp8=options.fp8,
        limits=ImageLimits(
            max_file_bytes=options.max_file_bytes, max_decoded_pixels=options.max_decoded_pixels
        ),
        challenger=options.challenger,
        challenger_share=options.challenger_share,
    )
