"""What crosses the boundaries of the flow: one small frozen record each.

    ImageRef          where an image is and what is known about it       ReadImageRefs → ChunkRefs
    Chunk             a tuple of refs: the one unit of work              ChunkRefs → ScoreChunks
    ImageFacts        what reading the bytes told                        model.images → everything
    Prediction        what the model said about one image                model.Scorer → everything
    Provenance        who said it                                        model.Scorer → rows
    ImageScore        ref + facts + prediction + provenance              ScoreChunks → WriteChunks
    ScoringFailure    ref + facts, as far as known, + reason             ScoreChunks → WriteChunks
    ScoredChunk       a chunk's outcomes, one for every ref, and what    ScoreChunks → WriteChunks
                      a challenger came to

``column_getters`` reads them into rows of the Parquet tables; ``tests/schemas`` holds them to
``schemas.tables``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal, get_type_hints

from schemas.errors import Stage
from schemas.version import SCHEMA_VERSION

Role = Literal["champion", "challenger"]


@dataclass(frozen=True, slots=True)
class ListingProblem:
    """Why a ref cannot be fetched at all; becomes a ``list`` or ``ingest`` failure."""

    stage: Literal["ingest", "list"]
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where an image is, and what is known about it before its bytes are read.

    Attributes:
        image_uri: Path or uri, as listed or as the manifest table spells it.
        image_generation: Version of the object (object stores' generation, or mtime in ns).
        event_time: When the image came to be here (UTC); its day names the partition.
        size_bytes: Size by listing, if known.
        context: Text about *this* image, as given.
        passthrough_json: The manifest table's further columns, as one JSON object.
        attempt: 1 for a first run; a retry counts up.
        problem: Set where listing already failed; such a ref is never fetched.
    """

    image_uri: str
    image_generation: int | None = None
    event_time: datetime | None = None
    size_bytes: int | None = None
    context: str | None = None
    passthrough_json: str | None = None
    attempt: int = 1
    problem: ListingProblem | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What identifies an outcome, together with the adapter revision."""
        return (self.image_uri, -1 if self.image_generation is None else self.image_generation)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of work: scored by one call, written as one file a table and day, retried as a whole."""

    refs: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What reading an image's bytes told; fields are None as far as reading did not come.

    Attributes:
        image_id: Lower-case hex sha256 of the bytes.
        width_px, height_px: Upright size (after EXIF orientation), before any resize.
        size_bytes: Length of the bytes.
    """

    image_id: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said about one image. Field names are column names.

    For every attribute but the text: ``<name>`` the value decided (as the model would write it: the best
    token at every branch), ``<name>_expected`` its expected
    ordinal code, ``<name>_confidence`` the probability of the decided value. Confidences and
    ``score_std`` are conditional on the slots decided earlier in the answer (a lower bound of the
    uncertainty). Attributes that the template does not ask for are None.

    Attributes:
        score: [0, 10), higher is better; read as the adapter's decoder says: of digits the chain-rule mean
            over their tree, the expectation position by position, or the greedy reading; of levels and bins
            the mean or the most probable one; or the one number that a head gives.
        score_std: Standard deviation of the score's distribution (of digits: the tree's), whatever the
            decoder; None where a head gives one number.
        score_greedy: The number the model would have written, or the most probable level or bin; None where
            a head gives one number.
        score_native: ``score`` on the adapter's native scale.
        composite_score: Weighted attributes, where the manifest has weights.
        reasons: Free-text reasons, one a line, for templates that have them.
        format_mass: Smallest unrestricted probability of the allowed set over the nodes where the row's
            choices and digits were decided, (0, 1]; free text does not count. None where no token was
            decided.
        context_used: The context as the model saw it; None where it saw none.
    """

    score: float | None = None
    score_std: float | None = None
    score_greedy: float | None = None
    score_native: float | None = None
    composite_score: float | None = None
    composition: int | None = None
    composition_expected: float | None = None
    composition_confidence: float | None = None
    eye_catching: int | None = None
    eye_catching_expected: float | None = None
    eye_catching_confidence: float | None = None
    subject_and_background: str | None = None
    subject_integrity: str | None = None
    subject_integrity_expected: float | None = None
    subject_integrity_confidence: float | None = None
    subject_clutter: str | None = None
    subject_clutter_expected: float | None = None
    subject_clutter_confidence: float | None = None
    background_clutter: str | None = None
    background_clutter_expected: float | None = None
    background_clutter_confidence: float | None = None
    level_shot: str | None = None
    level_shot_expected: float | None = None
    level_shot_confidence: float | None = None
    image_clarity: str | None = None
    image_clarity_expected: float | None = None
    image_clarity_confidence: float | None = None
    exposure: str | None = None
    exposure_expected: float | None = None
    exposure_confidence: float | None = None
    saturation: str | None = None
    saturation_expected: float | None = None
    saturation_confidence: float | None = None
    reasons: str | None = None
    format_mass: float | None = None
    context_used: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who scored: everything needed to score again. The same for all rows of one scorer.

    Attributes:
        base_model: Name or path of the base model.
        adapter: Name of the adapter, from its manifest.
        adapter_revision: sha256 of its manifest.
        template: Answer template.
        decoder: How the score is read (``schemas.manifest.DECODERS``).
        engine_version: Version of this package.
        device: What computed ("cpu", "cuda:NVIDIA H100").
        dtype: Of the weights ("float32", "bfloat16").
        role: ``champion``, or ``challenger`` for a second adapter on a sample.
    """

    base_model: str
    adapter: str
    adapter_revision: str
    template: str
    decoder: str
    engine_version: str
    device: str
    dtype: str
    role: Role = "champion"
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image, scored: one row of ``scores/``."""

    ref: ImageRef
    facts: ImageFacts
    prediction: Prediction
    provenance: Provenance
    run_id: str
    scored_at: datetime


@dataclass(frozen=True, slots=True)
class ScoringFailure:
    """One image that could not be scored: one row of ``failures/``."""

    ref: ImageRef
    facts: ImageFacts
    stage: Stage
    error_type: str
    message: str
    retryable: bool
    adapter: str
    adapter_revision: str
    run_id: str
    failed_at: datetime
    context_used: str | None = None
    role: Role = "champion"


Outcome = ImageScore | ScoringFailure
_NESTED = (ImageRef, ImageFacts, Prediction, Provenance)


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """The outcomes of one chunk.

    Attributes:
        outcomes: The champion's, in the order of the chunk's refs: exactly one each.
        challenger_outcomes: What a second adapter (another revision) came to on a sample of them.
    """

    outcomes: tuple[Outcome, ...]
    challenger_outcomes: tuple[Outcome, ...] = ()


def column_getters(kind: type[ImageScore] | type[ScoringFailure]) -> dict[str, Callable[[Any], Any]]:
    """Tell how to read every column of a table's rows from its records: column name → outcome → value.

    What reading the image told wins over what listing told (``size_bytes``).
    """
    paths: dict[str, list[str]] = {}
    for name, path in _leaves(kind):
        paths.setdefault(name, []).append(path)
    del paths["problem"]
    return {name: _getter(found) for name, found in paths.items()}


def _leaves(record: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    hints = get_type_hints(record)
    for field in fields(record):
        if hints[field.name] in _NESTED:
            yield from _leaves(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield field.name, prefix + field.name


def _getter(paths: Sequence[str]) -> Callable[[Any], Any]:
    if len(paths) == 1:
        return attrgetter(paths[0])
    values = attrgetter(*reversed(paths))
    return lambda outcome: next((value for value in values(outcome) if value is not None), None)
