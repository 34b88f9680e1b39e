"""The seam between the pipeline and the model: what the engine needs, and how workers get it.

``ModelScorerFactory`` gives the real thing; ``beam_pipeline.scoring.fakes`` ships one without a model.
Torch is imported when a scorer is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from beam_pipeline.scoring.adapter_cache import local_folder
from beam_pipeline.scoring.adapters import adapter_folder, fetched, read_identity
from beam_pipeline.scoring.challengers import in_share
from beam_pipeline.scoring.failures import AdapterIdentity
from beam_pipeline.scoring.pointers import Pointer, pointer_of
from model.adapters import read_manifest
from model.images import ImageLimits, Room, unbounded
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
    """What the engine needs of ``model.scorer.Scorer``; ``beam_pipeline.scoring.fakes`` ships another."""

    @property
    def provenance(self) -> Provenance:
        """Who scores; the same for all rows."""

    @property
    def token_budget(self) -> int:
        """Visual tokens of a micro-batch that suit the device."""

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> Any:
        """Make a ``PreparedImage``: thread-safe, on the CPU, holding ``room`` while it decodes.

        Raises ``DecodeError``.
        """

    def predict(self, prepared: Sequence[Any]) -> list[Prediction]:
        """Score one micro-batch, in its order."""


@runtime_checkable
class StagingScorer(Protocol):
    """A scorer whose images go to a device: they can be sent while it predicts those before."""

    def stage(self, prepared: Sequence[Any]) -> Any:
        """Begin to send one micro-batch; gives what ``predict`` takes in its place."""


class AdapterFollower(Protocol):
    """Says which adapter shall serve, and makes its scorer out of the one in place."""

    @property
    def loaded(self) -> str:
        """What ``look`` would have given when the scorer in place was loaded."""

    def look(self) -> str:
        """Give what names the adapter now; quick. Raises ``OSError``."""

    def prepare(self, said: str, current: Scorer) -> Callable[[], Scorer] | None:
        """Read and verify the adapter that ``look`` named, while ``current`` goes on scoring.

        Returns:
            What makes the switch when nobody scores: it gives the new scorer, and ``current`` is of no use
            any more. None where ``current`` is of that adapter already.

        Raises:
            ConfigurationError: It cannot serve. Raised by the switch, too, which then has changed nothing.
            OSError: It cannot be read now.
        """


@dataclass(frozen=True)
class Challenger:
    """A second scorer for a share of the images.

    Attributes:
        scorer: Its provenance says ``challenger``.
        share: Of the images, (0, 1], by a hash of the uri.
    """

    scorer: Scorer
    share: float

    def takes(self, uri: str) -> bool:
        """Whether it scores the image of this uri."""
        return in_share(uri, self.share)


@dataclass(frozen=True)
class Serving:
    """What a factory has loaded.

    Attributes:
        champion: Scores every image.
        challenger: Scores a share of them, too.
        follower: Where the champion's adapter may change while the job runs.
    """

    champion: Scorer
    challenger: Challenger | None = None
    follower: AdapterFollower | None = None


class ScorerFactory(Hashable, Protocol):
    """Makes the scorer on the worker; travels with the job, and is the key of the pinned engine."""

    def identity(self) -> AdapterIdentity:
        """Read the adapter's name and revision, without loading it."""

    def load(self) -> Serving:
        """Load it. Raises ``ConfigurationError``."""


@dataclass(frozen=True)
class PointerFollower:
    """Follows a pointer file with ``model.scorer.Scorer``.

    Attributes:
        pointer: The file.
        template: Answer template asked of every adapter; None = each one's default.
        loaded: The pointer's content that the first scorer was loaded by.
    """

    pointer: Pointer
    template: str | None
    loaded: str

    def look(self) -> str:
        """Read the pointer. Raises ``OSError``."""
        return self.pointer.read()

    def prepare(self, said: str, current: Any) -> Callable[[], Scorer] | None:
        """Make the successor of a ``model.scorer.Scorer``; see ``AdapterFollower``."""
        folder = local_folder(self.pointer.target(said))
        _, revision = read_manifest(folder)
        if revision == current.provenance.adapter_revision:
            return None
        successor: Scorer = current.successor(folder, template=self.template)

        def take_over() -> Scorer:
            current.give_way(successor)
            return successor

        return take_over


@dataclass(frozen=True)
class ModelScorerFactory:
    """Loads ``model.scorer.Scorer``.

    Attributes:
        adapter: Directory of the adapter, or a pointer to one; None = the embedded one.
        base_model: Name or path; None = what the adapter's manifest names.
        template: Answer template; None = the adapter's default.
        device: ``auto``, ``cpu`` or ``cuda[:N]``, resolved on the worker.
        dtype: Of the weights; None = what suits the device.
        fp8: Linear layers of the language model in FP8; only of an adapter that stays, and alone.
        limits: What is refused before decoding.
        challenger: Directory of a second adapter of the same base.
        challenger_share: Of the images that it scores, too.
    """

    adapter: str | None
    base_model: str | None
    template: str | None
    device: str
    dtype: str | None
    limits: ImageLimits
    challenger: str | None = None
    challenger_share: float = 0.05
    fp8: bool = False

    def identity(self) -> AdapterIdentity:
        """Read the adapter's manifest. Raises ``ConfigurationError``."""
        return read_identity(self.adapter)

    def load(self) -> Serving:
        """Load base model and adapters. Raises ``ConfigurationError``."""
        from model.scorer import Scorer as ModelScorer

        options: dict[str, Any] = {
            "base_model": self.base_model,
            "template": self.template,
            "device": self.device,
            "dtype": self.dtype,
            "limits": self.limits,
            "isolate_decoders": True,
        }
        if self.challenger is not None:
            folders = adapter_folder(self.adapter), adapter_folder(self.challenger)
            champion, challenger = ModelScorer.load_pair(*folders, **options)
            return Serving(champion, challenger=Challenger(challenger, self.challenger_share))
        pointer = pointer_of(self.adapter)
        if pointer is None:
            return Serving(ModelScorer.load(adapter_folder(self.adapter), fp8=self.fp8, **options))
        said = pointer.read_now()
        scorer = ModelScorer.load(fetched(pointer.target(said)), keep_base=True, **options)
        return Serving(scorer, follower=PointerFollower(pointer, self.template, said))
