"""From an error to a row of ``failures/``, and what an error means for the images beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from schemas.errors import ScoringError, Stage
from schemas.records import ImageFacts, ImageRef, Role, ScoringFailure

_NOTHING_KNOWN = ImageFacts()


@dataclass(frozen=True)
class AdapterIdentity:
    """What rows and reports say about an adapter without loading it.

    Attributes:
        name: From its manifest.
        revision: sha256 of its manifest.
        synthetic: Its training labels were synthetic: its scores say nothing about human taste.
    """

    name: str
    revision: str
    synthetic: bool = False


@dataclass(frozen=True)
class FailureContext:
    """What all failure rows of one moment share.

    Attributes:
        adapter: Who would have scored.
        run_id: The job.
        failed_at: When, UTC.
        role: In which that adapter would have scored.
    """

    adapter: AdapterIdentity
    run_id: str
    failed_at: datetime
    role: Role = "champion"


def failure_of(
    ref: ImageRef,
    error: Exception,
    context: FailureContext,
    *,
    stage: Stage = "score",
    facts: ImageFacts = _NOTHING_KNOWN,
    context_used: str | None = None,
) -> ScoringFailure:
    """Make the failure row of one ref.

    Args:
        ref: Which image.
        error: What happened. One of ours names its stage and whether to retry; any other one is a
            mistake of this program and becomes a row with its own type, too.
        context: Adapter, run and time.
        stage: Where an error that does not name it happened.
        facts: As far as known.
        context_used: As far as known.
    """
    if isinstance(error, ScoringError):
        stage, message, retryable = error.stage, error.message, error.retryable
    else:
        message, retryable = str(error) or repr(error), is_out_of_memory(error)
    return ScoringFailure(
        ref=ref,
        facts=facts,
        stage=stage,
        error_type=type(error).__name__,
        message=valid_text(message),
        retryable=retryable,
        adapter=context.adapter.name,
        adapter_revision=context.adapter.revision,
        run_id=context.run_id,
        failed_at=context.failed_at,
        context_used=context_used,
        role=context.role,
    )


def listing_failure(ref: ImageRef, context: FailureContext) -> ScoringFailure:
    """Make the failure row of a ref that carries a listing problem.

    Raises:
        ValueError: The ref has none.
    """
    if ref.problem is None:
        raise ValueError(f"{ref.image_uri} has no listing problem")
    return ScoringFailure(
        ref=ref,
        facts=_NOTHING_KNOWN,
        stage=ref.problem.stage,
        error_type=ref.problem.error_type,
        message=valid_text(ref.problem.message),
        retryable=False,
        adapter=context.adapter.name,
        adapter_revision=context.adapter.revision,
        run_id=context.run_id,
        failed_at=context.failed_at,
        role=context.role,
    )


def valid_text(text: str) -> str:
    """Escape what no Parquet string can hold (errors may quote file names with undecodable bytes)."""
    return text.encode(errors="backslashreplace").decode()


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out, here or on the device; by class name, so that torch is not needed."""
    return any(kind.__name__ in ("OutOfMemoryError", "MemoryError") for kind in type(error).__mro__)


def is_device_lost(error: BaseException) -> bool:
    """Say whether the device's context is dead (a device assert): nothing in this process works after it."""
    return any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)
