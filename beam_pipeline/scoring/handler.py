"""The model handler: a thin Beam shell over the engine. One element is one chunk; the chunk is the batch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from beam_pipeline.progress import tally_of
from beam_pipeline.scoring.engine import Engine, EngineSettings, pinned_engine
from beam_pipeline.scoring.failures import (
    AdapterIdentity,
    FailureContext,
    failure_of,
    is_device_lost,
    listing_failure,
)
from beam_pipeline.scoring.scorers import ScorerFactory
from beam_pipeline.scoring.turns import Turn
from schemas.errors import ConfigurationError, InferenceError
from schemas.records import Chunk, Outcome, ScoredChunk, ScoringFailure

NAMESPACE = "scoring"
"""Of all our Beam metrics."""


class BeamObserver:
    """Turns what the engine reports into Beam metrics and this process's tally.

    Metrics: ``fetch_ms``, ``decode_ms`` (per image), ``score_ms``, ``visual_tokens``,
    ``micro_batch_images`` (per micro-batch) and ``adapter_switch_ms`` (how long new chunks waited for
    another adapter) are distributions; ``images_scored``, ``failures_<stage>`` (of champions),
    ``challenger_images``, ``adapter_switches`` and ``adapter_switches_failed`` are counters.
    """

    def __init__(self, run_id: str) -> None:
        self._tally = tally_of(run_id)
        # Those of every image are made once a chunk: Beam takes longer to make one than to count.
        self._fetch_ms = Metrics.distribution(NAMESPACE, "fetch_ms")
        self._decode_ms = Metrics.distribution(NAMESPACE, "decode_ms")
        self._scored = Metrics.counter(NAMESPACE, "images_scored")

    def fetched(self, milliseconds: float) -> None:
        """One image was read."""
        self._fetch_ms.update(round(milliseconds))

    def decoded(self, milliseconds: float) -> None:
        """One image was decoded."""
        self._decode_ms.update(round(milliseconds))

    def predicted(self, images: int, visual_tokens: int, milliseconds: float) -> None:
        """One micro-batch was scored."""
        Metrics.distribution(NAMESPACE, "score_ms").update(round(milliseconds))
        Metrics.distribution(NAMESPACE, "visual_tokens").update(visual_tokens)
        Metrics.distribution(NAMESPACE, "micro_batch_images").update(images)

    def finished(self, outcome: Outcome) -> None:
        """One ref has its outcome."""
        if isinstance(outcome, ScoringFailure):
            Metrics.counter(NAMESPACE, f"failures_{outcome.stage}").inc()
            self._tally.add(failed=True)
        else:
            self._scored.inc()
            self._tally.add(failed=False)

    def challenged(self, outcome: Outcome) -> None:
        """The challenger, too, came to an outcome for one ref."""
        Metrics.counter(NAMESPACE, "challenger_images").inc()

    def adapter_switched(self, milliseconds: float) -> None:
        """Another adapter serves; new chunks had to wait for so long."""
        Metrics.counter(NAMESPACE, "adapter_switches").inc()
        Metrics.distribution(NAMESPACE, "adapter_switch_ms").update(round(milliseconds))

    def adapter_switch_failed(self) -> None:
        """The pointer names something that cannot serve; the adapter in place goes on."""
        Metrics.counter(NAMESPACE, "adapter_switches_failed").inc()


class ChunkHandler(ModelHandler[Turn, ScoredChunk, Engine]):
    """Scores chunks with the engine that is pinned in this process.

    Args:
        factory: Makes the scorer.
        settings: Of the engine.
        run_id: Stamped on rows.
    """

    def __init__(self, factory: ScorerFactory, settings: EngineSettings, run_id: str) -> None:
        super().__init__()
        self._factory = factory
        self._settings = settings
        self._run_id = run_id

    def load_model(self) -> Engine:
        """Give the pinned engine. Raises ``ConfigurationError``, which stops the job."""
        return pinned_engine(self._factory, self._settings)

    def run_inference(
        self, batch: Sequence[Turn], model: Engine, inference_args: dict[str, Any] | None = None
    ) -> list[ScoredChunk]:
        """Score chunks; every ref becomes one outcome.

        Raises:
            InferenceError: Something is wrong with the engine itself. ``ScoreChunks`` turns the chunk into
                failures; of all errors only this one goes there, so that the others stop the job.
            ConfigurationError: As found by the scorer.
            Exception: The device is lost: the runner must restart the process.
        """
        try:
            return [model.score(turn, self._run_id, BeamObserver(self._run_id)) for turn in batch]
        except ConfigurationError:
            raise
        except Exception as error:
            if is_device_lost(error):
                raise
            raise InferenceError(f"{type(error).__name__}: {error}") from error

    def get_num_bytes(self, batch: Sequence[Turn]) -> int:
        """Size of the chunks' images as listed (Beam would pickle the chunk to measure it)."""
        return sum(ref.size_bytes or 0 for turn in batch for ref in turn.chunk.refs)

    def get_metrics_namespace(self) -> str:
        """Where RunInference's own metrics go: beside ours."""
        return NAMESPACE


def rescue(chunk: Chunk, message: str, adapter: AdapterIdentity, run_id: str) -> ScoredChunk:
    """Turn a chunk that the engine dropped into failures: the last net under ``run_inference``."""
    context = FailureContext(adapter, run_id, datetime.now(UTC))
    error = InferenceError(message, retryable=True)
    outcomes = tuple(
        failure_of(ref, error, context) if ref.problem is None else listing_failure(ref, context)
        for ref in chunk.refs
    )
    observer = BeamObserver(run_id)
    for outcome in outcomes:
        observer.finished(outcome)
    return ScoredChunk(outcomes)
