"""Fakes that ship: a scorer without a model, so that the whole pipeline runs anywhere in seconds.

Their numbers are a hash of the bytes. They say nothing about photographs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from beam_pipeline.scoring.failures import AdapterIdentity
from beam_pipeline.scoring.pointers import Pointer
from beam_pipeline.scoring.scorers import Challenger, Serving
from model.images import ImageLimits, Room, decode_image, decoded_bytes, inspect_image, unbounded
from schemas.attributes import VOCABULARY, Attribute
from schemas.errors import ConfigurationError, InferenceError
from schemas.manifest import ImageRule
from schemas.records import ImageFacts, Prediction, Provenance, Role


def _choices(attribute: Attribute) -> list[tuple[int | str, int]]:
    """Every value of an attribute, as a row has it, and its code; none for text."""
    values = [int(value) if attribute.kind == "integer" else value for value in attribute.values]
    return list(zip(values, attribute.codes, strict=True))


_CHOICES = [(attribute.name, _choices(attribute)) for attribute in VOCABULARY.attributes]
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
        role: Stamped on rows.
    """

    revision: str = "fake-revision"
    limits: ImageLimits = _LIMITS
    delay_ms: float = 0.0
    poison: tuple[str, ...] = ()
    token_budget: int = 64
    role: Role = "champion"

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
            role=self.role,
        )

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
        """Inspect and decode as a real scorer does, with the same errors."""
        facts = inspect_image(data, self.limits)
        with room(decoded_bytes(facts)):
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


@dataclass(frozen=True)
class FakeFollower:
    """Follows a pointer whose first line is the revision; one that begins with ``broken`` cannot serve.

    Attributes:
        pointer: The file.
        loaded: Its content when the first scorer was made.
    """

    pointer: Pointer
    loaded: str

    def look(self) -> str:
        """Read the pointer. Raises ``OSError``."""
        return self.pointer.read()

    def prepare(self, said: str, current: Any) -> Callable[[], FakeScorer] | None:
        """Make a scorer of the revision; see ``beam_pipeline.scoring.scorers.AdapterFollower``."""
        revision = fake_revision(self.pointer, said)
        return None if revision == current.revision else partial(replace, current, revision=revision)


def fake_revision(pointer: Pointer, content: str) -> str:
    """Read a revision from a pointer's content. Raises ``ConfigurationError``."""
    revision = pointer.target(content).rpartition("/")[2]
    if revision.startswith("broken"):
        raise ConfigurationError(f"{revision} cannot serve")
    return revision


_SCORER = FakeScorer()


@dataclass(frozen=True)
class FakeScorerFactory:
    """Makes a ``FakeScorer`` on the worker.

    Attributes:
        scorer: The scorer; frozen, so it travels with the job.
        synthetic: What reports say about the adapter's labels.
        pointer: File that names the revision; None = the scorer's own, which stays.
        challenger: Scores a share of the images, too.
        challenger_share: That share.
    """

    scorer: FakeScorer = _SCORER
    synthetic: bool = False
    pointer: str | None = None
    challenger: FakeScorer | None = None
    challenger_share: float = 0.05

    def identity(self) -> AdapterIdentity:
        """The fake adapter's name and revision."""
        return AdapterIdentity("fake", self.load().champion.provenance.adapter_revision, self.synthetic)

    def load(self) -> Serving:
        """Give the scorer, with what goes beside it."""
        if self.pointer is not None:
            pointer = Pointer(self.pointer)
            said = pointer.read_now()
            scorer = replace(self.scorer, revision=fake_revision(pointer, said))
            return Serving(scorer, follower=FakeFollower(pointer, said))
        if self.challenger is None:
            return Serving(self.scorer)
        rival = replace(self.challenger, role="challenger")
        return Serving(self.scorer, challenger=Challenger(rival, self.challenger_share))


def _prediction(image: FakePrepared) -> Prediction:
    digest = hashlib.sha256(str(image.facts.image_id).encode()).digest()
    score = int.from_bytes(digest[:2], "big") / 65536 * 10
    values: dict[str, float | int | str] = {}
    for (name, choices), byte in zip(_CHOICES, digest[2:], strict=False):
        if choices:
            value, code = choices[byte % len(choices)]
            values[name] = value
            values[f"{name}_expected"] = float(code)
            values[f"{name}_confidence"] = 0.5 + byte / 512
    return Prediction(
        score=score,
        score_std=0.5,
        score_greedy=round(min(score, 9.99), 2),
        score_native=score,
        format_mass=0.9 + digest[-1] / 2560,
        context_used=image.context_used,
        **values,  # type: ignore[arg-type]
    )
