"""The errors of this project, in its own words.

    ScoringError                  one image cannot be scored; becomes one row of ``failures/``
    ├── IngestError               the message that announced the image makes no sense      stage ingest
    ├── ListingError              the image cannot be named or stat'ed                     stage list
    ├── FetchError                its bytes cannot be read                                 stage fetch
    │   └── SidecarError          the file with its context cannot be read or understood   stage fetch
    ├── DecodeError               its bytes are not a complete, acceptable image           stage decode
    │   └── ImageLimitError       it is larger (or narrower) than the limits allow         stage decode
    └── InferenceError            the model could not score it                             stage score

    ConfigurationError            the job, adapter or option is wrong; carries every reason
    ├── ManifestMismatchError     an adapter's manifest does not hold here; names the fields
    └── TemplateError             an answer template cannot be compiled for a tokeniser

A ``ScoringError`` is data: it never stops a job. A ``ConfigurationError`` stops it before the first
image. Neither is matched by its message text anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

Stage = Literal["ingest", "list", "fetch", "decode", "score"]


class ScoringError(Exception):
    """One image cannot be scored.

    Args:
        message: What is wrong, in words for the owner of the image.
        image_uri: Which image, where known.
        retryable: Whether the same image may succeed later (a time-out may, a broken file not).
    """

    stage: ClassVar[Stage] = "score"

    def __init__(self, message: str, *, image_uri: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.image_uri = image_uri
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive pickling (Beam, process pools) by themselves.
        return _rebuild, (type(self), self.message, self.image_uri, self.retryable)

    def __str__(self) -> str:
        return f"{self.image_uri}: {self.message}" if self.image_uri else self.message


def _rebuild(kind: type[ScoringError], message: str, image_uri: str | None, retryable: bool) -> ScoringError:
    return kind(message, image_uri=image_uri, retryable=retryable)


class IngestError(ScoringError):
    """The message that announced the image makes no sense."""

    stage = "ingest"


class ListingError(ScoringError):
    """The image cannot be named, or its metadata cannot be read."""

    stage = "list"


class FetchError(ScoringError):
    """The image's bytes cannot be read."""

    stage = "fetch"


class SidecarError(FetchError):
    """The image's context, in a file beside it, cannot be read or understood."""


class DecodeError(ScoringError):
    """The bytes are not a complete image in an accepted format."""

    stage = "decode"


class ImageLimitError(DecodeError):
    """The image is larger, or more elongated, than the limits allow; judged before decoding."""


class InferenceError(ScoringError):
    """The model could not score the image."""

    stage = "score"


class ConfigurationError(Exception):
    """The job is misconfigured.

    Args:
        reasons: Every reason found, not only the first.
    """

    def __init__(self, reasons: Sequence[str] | str) -> None:
        self.reasons: tuple[str, ...] = (reasons,) if isinstance(reasons, str) else tuple(reasons)
        super().__init__("; ".join(self.reasons))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reasons,)


class ManifestMismatchError(ConfigurationError):
    """An adapter's manifest does not hold for its files, this base model or this version."""


class TemplateError(ConfigurationError):
    """An answer template cannot be compiled into a slot program for a tokeniser."""
