"""Fakes that ship: a scorer without a model, so that the whole pipeline runs anywhere in seconds.

Their numbers are a hash of the bytes. They say nothing about photographs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from beam_pipeline.failures import AdapterIdentity
from model.images import ImageLimits, decode_image, inspect_image
from schemas.attributes import VOCABULARY
from schemas.errors import InferenceError
from schemas.manifest import ImageRule
from schemas.records import ImageFacts, Prediction, Provenance

_LIMITS = ImageLimits()
_RULE = ImageRule(min_pixels=784, max_pixels=28 * 28 * 4)


@dataclass(frozen=True)
class FakePrepared:
    """A checked image, of which only the hash is left."""

    facts: ImageFacts
    visual_tokens: int
    context_used: str | None


@dataclass(frozen=True)
class FakeScorer:
    """A scorer whose predictions are a pure function of an image's bytes.

    Attributes:
        revision: Stamped on rows as the adapter's revision.
        limits: Real ones: images are inspected and decoded as for a real model.
        delay_ms: Time that one image takes to predict.
        poison: Hex prefixes of ``image_id``; an image with one of them cannot be predicted.
        token_budget: As a real scorer suggests one.
    """

    revision: str = "fake-revision"
    limits: ImageLimits = _LIMITS
    delay_ms: float = 0.0
    poison: tuple[str, ...] = ()
    token_budget: int = 64

    @property
    def provenance(self) -> Provenance:
        """Says plainly that nothing real scored."""
        return Provenance(
            base_model="fake",
            adapter="fake",
            adapter_revision=self.revision,
            template="default",
            decoder="digit_tree",
            engine_version="0",
            device="cpu",
            dtype="float32",
        )

    def prepare(self, data: bytes, *, context: str | None = None) -> FakePrepared:
        """Inspect and decode as a real scorer does, with the same errors."""
        facts = inspect_image(data, self.limits)
        height, width, _ = decode_image(data, facts, _RULE).shape
        return FakePrepared(facts, height * width // 784, context)

    def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
        """Predict one micro-batch.

        Raises:
            InferenceError: One of the images is poison.
        """
        time.sleep(self.delay_ms * len(prepared) / 1000)
        for image in prepared:
            if self.poison and str(image.facts.image_id).startswith(self.poison):
                raise InferenceError("poison")
        return [_prediction(image) for image in prepared]


_SCORER = FakeScorer()


@dataclass(frozen=True)
class FakeScorerFactory:
    """Makes a ``FakeScorer`` on the worker.

    Attributes:
        scorer: The scorer; frozen, so it travels with the job.
        synthetic: What reports say about the adapter's labels.
    """

    scorer: FakeScorer = _SCORER
    synthetic: bool = False

    def identity(self) -> AdapterIdentity:
        """The fake adapter's name and revision."""
        return AdapterIdentity("fake", self.scorer.revision, self.synthetic)

    def load(self) -> FakeScorer:
        """Give the scorer."""
        return self.scorer


def _prediction(image: FakePrepared) -> Prediction:
    digest = hashlib.sha256(str(image.facts.image_id).encode()).digest()
    score = int.from_bytes(digest[:2], "big") / 65536 * 10
    values: dict[str, float | int | str] = {}
    for attribute, byte in zip(VOCABULARY.attributes, digest[2:], strict=False):
        if attribute.kind == "text":
            continue
        pick = byte % len(attribute.values)
        value = attribute.values[pick]
        values[attribute.name] = int(value) if attribute.kind == "integer" else value
        values[f"{attribute.name}_expected"] = float(attribute.codes[pick])
        values[f"{attribute.name}_confidence"] = 0.5 + byte / 512
    return Prediction(
        score=score,
        score_std=0.5,
        score_greedy=round(min(score, 9.99), 2),
        score_native=score,
        format_mass=0.9 + digest[-1] / 2560,
        context_used=image.context_used,
        **values,  # type: ignore[arg-type]
    )
