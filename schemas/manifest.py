"""The adapter manifest: everything serving must do exactly as training did.

An adapter is a directory with ``manifest.json`` beside its weights. ``adapter_revision`` is the sha256 of
that file's bytes; the manifest holds the hashes of the other files, so the revision names them all.
``model.adapters`` writes, checks and loads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.attributes import VOCABULARY, Vocabulary

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1

Placement = Literal["before_image", "after_image"]
Tokenisation = Literal["segments", "whole_text"]
ResizeRule = Literal["bicubic", "nearest_262144"]
ScoreHead = Literal["digits", "levels", "soft_levels", "bins", "regression", "mlp"]
Decoder = Literal["digit_tree", "per_position", "greedy", "mean", "mode", "point"]
DECODERS: Mapping[ScoreHead, tuple[Decoder, ...]] = {
    "digits": ("digit_tree", "per_position", "greedy"),
    "levels": ("mean", "mode"),
    "soft_levels": ("mean", "mode"),
    "bins": ("mean", "mode"),
    "regression": ("point",),
    "mlp": ("point",),
}
"""Ways to read a score, by its head; the first is the default."""
READOUT_HEADS: frozenset[ScoreHead] = frozenset({"bins", "regression", "mlp"})
"""Heads with weights of their own, which read the last hidden state; the others write tokens."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelIdentity(_Part):
    """Which base the weights belong to.

    Attributes:
        name: Hub name or path as trained; for people. The hashes decide.
        config_sha256: Of the architecture fields of ``config.json``.
        tokenizer_sha256: Of ``tokenizer.json``.
        tensors_sha256: Of name, shape and first values of every tensor, whatever the number format.
    """

    name: str
    config_sha256: str
    tokenizer_sha256: str
    tensors_sha256: str


class Conversation(_Part):
    """How a question is put to the model.

    Attributes:
        system: System text of the ChatML string.
        chatml_sha256: Pins the whole rendered ChatML scaffold.
        instruction: Before the image (ours: its keys and values are shared) or after (as published).
        context_template: Sentence holding ``{context}``, put after image and instruction; None = the
            adapter takes no context.
        context_max_tokens: Longer contexts are cut.
    """

    system: str = "You are a helpful assistant."
    chatml_sha256: str
    instruction: Placement = "before_image"
    context_template: str | None = None
    context_max_tokens: int = Field(default=64, ge=1, le=4096)

    @field_validator("context_template")
    @classmethod
    def _one_hole(cls, value: str | None) -> str | None:
        if value is not None and value.count("{context}") != 1:
            raise ValueError("context_template must hold {context} exactly once")
        return value


class Answer(_Part):
    """Which answer templates the adapter was trained on.

    Attributes:
        templates: Their names (``model.templates``).
        default_template: The one that serving uses unless told otherwise.
        templates_sha256: Pins their wording, with this vocabulary.
        tokenisation: ``segments``: ours, piece by piece; ``whole_text``: trained elsewhere.
    """

    templates: tuple[str, ...] = Field(min_length=1)
    default_template: str
    templates_sha256: str
    tokenisation: Tokenisation = "segments"

    @model_validator(mode="after")
    def _default_is_known(self) -> Answer:
        if self.default_template not in self.templates:
            raise ValueError(f"default_template {self.default_template!r} is not in templates")
        return self


class ScoreScale(_Part):
    """How the score is written and read.

    Attributes:
        native_low, native_high: Range of the training labels; maps linearly to [0, 10).
        head: What the score arises from. ``digits``: next tokens (RealQA). ``levels``: words for equal parts
            of the range, learnt as tokens (Q-Align, arXiv 2312.17090, which reads them from end to end; here
            as the parts' middles: the same ranks, smaller errors). ``soft_levels``: the same words, learnt
            as a distribution (DeQA-Score, arXiv 2501.11599). ``bins``: classes of equal width over the last
            hidden state (RvTC, arXiv 2507.14997). ``regression``: one linear output over it (VideoScore,
            arXiv 2406.15252). ``mlp``: a small network over it (Q-Scorer).
        digits: M, digits of the score text, the integer digit counted (3: "6.59"). Of every head the score
            stays below 10 by one unit of its last digit.
        trimmed: Whether labels dropped trailing zeros ("7.0", "3.9").
        level_words: Of the two heads that write words, the worst first.
        bins: How many, of that head.
        hidden_width: Of the mlp.
        decoder: How the score column is read (``model.reading``); None given = the head's first.
    """

    native_low: float = 0.0
    native_high: float = 10.0
    head: ScoreHead = "digits"
    digits: int = Field(default=3, ge=2, le=5)
    trimmed: bool = False
    level_words: tuple[str, ...] = Field(
        default=("bad", "poor", "fair", "good", "excellent"), min_length=2, max_length=10
    )
    bins: int = Field(default=20, ge=2, le=1000)
    hidden_width: int = Field(default=256, ge=1, le=65536)
    decoder: Decoder = "digit_tree"

    @model_validator(mode="before")
    @classmethod
    def _heads_own_decoder(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("decoder") is not None:
            return data
        ways = {str(head): found for head, found in DECODERS.items()}.get(str(data.get("head", "digits")))
        return data if ways is None else {**data, "decoder": ways[0]}

    @model_validator(mode="after")
    def _fits_together(self) -> ScoreScale:
        problems = []
        if not self.native_low < self.native_high:
            problems.append("native_low must be below native_high")
        if self.decoder not in DECODERS[self.head]:
            problems.append(f"decoder of head {self.head!r} must be one of {', '.join(DECODERS[self.head])}")
        words = {word.strip() for word in self.level_words} - {""}
        if len(words) < len(self.level_words) or words != set(self.level_words):
            problems.append("level_words must differ, and have no blanks around them")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ImageRule(_Part):
    """From bytes to pixels, the same in training and serving.

    Attributes:
        min_pixels, max_pixels: Pixel budget of the resized image; 28 × 28 px make one visual token.
        resize_rule: ``bicubic``: Qwen2-VL's own; ``nearest_262144``: first NEAREST to at most 262,144
            px, as the published adapters were trained (no reduced-scale decoding then).
        image_decoder: Names the decoding path and its version.
    """

    min_pixels: int = Field(ge=784)
    max_pixels: int = Field(ge=784)
    resize_rule: ResizeRule = "bicubic"
    image_decoder: str = "torch-reduced-2x/2"

    @model_validator(mode="after")
    def _ordered(self) -> ImageRule:
        if self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels must not exceed max_pixels")
        return self


class CompositeWeights(_Part):
    """Composite score = intercept + Σ weights[attribute] · expected code."""

    intercept: float
    weights: dict[str, float]


class Training(_Part):
    """Where the weights come from.

    Attributes:
        stage: ``stage1`` (attributes) or ``stage2`` (score with chain of thought).
        initialised_from: "base", or the revision of the adapter it continues.
        labelled_by: Revision of the adapter that labelled the data; None for labels from outside.
        vision: Which part of the vision tower the adapter changes.
        fingerprint: sha256 of configuration, data listing and seed.
        synthetic: True where labels are synthetic and say nothing about human taste.
    """

    stage: Literal["stage1", "stage2"]
    initialised_from: str = "base"
    labelled_by: str | None = None
    vision: Literal["frozen", "lora", "full"] = "lora"
    fingerprint: str
    synthetic: bool = False


class EvaluationResult(_Part):
    """One figure, with what it was measured on."""

    dataset: str
    target: str
    n: int = Field(ge=1)
    srcc: float | None = None
    plcc: float | None = None


class AdapterManifest(_Part):
    """``manifest.json`` of an adapter directory. See the parts for their fields."""

    manifest_version: Literal[1] = 1
    name: str
    description: str = ""
    base_model: BaseModelIdentity
    conversation: Conversation
    answer: Answer
    vocabulary: Vocabulary = VOCABULARY
    score: ScoreScale = ScoreScale()
    image: ImageRule
    composite: CompositeWeights | None = None
    training: Training
    evaluation: tuple[EvaluationResult, ...] = ()
    files: dict[str, str]

    @model_validator(mode="after")
    def _columns_fit(self) -> AdapterManifest:
        ours = [(a.name, a.kind, a.level) for a in VOCABULARY.attributes]
        theirs = [(a.name, a.kind, a.level) for a in self.vocabulary.attributes]
        if ours != theirs:
            raise ValueError(
                "vocabulary: names, kinds, levels and order are the columns of the Parquet contract; "
                "only titles and labels may differ"
            )
        if self.composite is not None:
            unknown = set(self.composite.weights) - {a.name for a in self.vocabulary.evaluated}
            if unknown:
                raise ValueError(f"composite: no such attribute: {sorted(unknown)}")
        return self

    def to_bytes(self) -> bytes:
        """The bytes of ``manifest.json``; equal manifests give equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False)
        return (text + "\n").encode()

    def field_digests(self) -> dict[str, str]:
        """sha256 of every field that was given, but ``files``, by dotted name, for the seal.

        Defaults do not count: a field that a later version adds leaves older adapters' seals whole.
        """
        content = self.model_dump(mode="json", exclude={"files"}, exclude_unset=True)
        return {name: _digest(value) for name, value in _leaf_fields(content, "")}


def _leaf_fields(content: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        # Maps with user-chosen keys and lists are one field each; the parts are opened.
        if isinstance(value, dict) and name != "weights" and value:
            yield from _leaf_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
