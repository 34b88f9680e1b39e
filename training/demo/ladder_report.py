"""All ladders climbed by one model, and how to read what came out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from model.images import resized_size
from model.scorer import Scorer
from schemas.errors import ConfigurationError
from schemas.manifest import ImageRule
from schemas.records import Provenance
from training.demo import judges, ladders
from training.demo.ladders import Climb, Frame
from training.demo.pictures import Photo

_LOG = logging.getLogger(__name__)

_SEED = 0
_ASPECT = (3_000, 4_000)
"""Height and width: the frame is what the model sees of a 4:3 picture of any large size."""
FEWEST_FRAMES = 2

_HOW_TO_READ = """SRCC, + = worse pictures get lower marks: pooled over all photographs [95 % interval by
bootstrap over them] / mean within a photograph. Last column: pooled, over the same draws; the clarity's SRCC
less BRISQUE's where the degradation should move the clarity, else the score's. BRISQUE sees no colour and was
trained on human opinions of blur, noise and compression. The degradations are synthetic: ranking them is
not human taste. –: no such attribute, or a picture without an answer."""


@dataclass(frozen=True, slots=True)
class LadderReport:
    """What was climbed by whom.

    Attributes:
        provenance: Who scored.
        synthetic: Whether the adapter's labels were.
        photographs: Names of the photographs, each on every ladder.
        size_px: Width and height of every picture.
        brisque: Whether BRISQUE was installed.
        climbs: Of all ladders.
    """

    provenance: Provenance
    synthetic: bool
    photographs: tuple[str, ...]
    size_px: tuple[int, int]
    brisque: bool
    climbs: tuple[Climb, ...]

    def to_markdown(self) -> str:
        """The table and how to read it."""
        width, height = self.size_px
        first = f"{len(self.photographs)} photographs, each at {width} × {height} px."
        table = ladders.table(self.climbs, None if self.brisque else judges.BRISQUE_MISSING)
        return f"{first}\n\n{table}\n\n{_HOW_TO_READ}"

    def to_json(self) -> str:
        """Everything, as one JSON object."""
        facts = {
            **asdict(self.provenance),
            "synthetic": self.synthetic,
            "photographs": self.photographs,
            "size_px": self.size_px,
            "seed": _SEED,
            "ladders": [_plain(found) for found in self.climbs],
        }
        return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def frame_size(rule: ImageRule) -> tuple[int, int]:
    """Width and height at which the model sees a 4:3 picture."""
    height, width = resized_size(*_ASPECT, rule)
    return width, height


def frames_of(
    photographs: Iterable[Photo], size_px: tuple[int, int], *, fewest: int, most: int | None
) -> list[Frame]:
    """Cut photographs to the frame, passing over those that are too small.

    Args:
        photographs: In the order in which they are taken.
        size_px: Width and height.
        fewest: So many there must be.
        most: The first so many; None = all there are.

    Raises:
        ConfigurationError: There are too few.
    """
    cut = ((photograph.name, ladders.frame(photograph.image, size_px)) for photograph in photographs)
    frames = list(islice((Frame(name, pixels) for name, pixels in cut if pixels is not None), most))
    if len(frames) < fewest:
        raise ConfigurationError(
            f"ladders: {fewest} photographs are wanted, but only {len(frames)} have "
            f"{size_px[0]} × {size_px[1]} px or more"
        )
    return frames


def climb_ladders(scorer: Scorer, frames: Sequence[Frame]) -> LadderReport:
    """Degrade the frames by every ladder, and ask the model and, where it is installed, BRISQUE.

    Args:
        scorer: The model.
        frames: From ``frames_of``, at ``frame_size`` of the model's rule.
    """
    brisque = judges.load_brisque()
    climbs = []
    for ladder in ladders.LADDERS:
        climbs.append(ladders.climb(ladder, frames, scorer.score, brisque, _SEED))
        _LOG.info("ladder %s: %d of %d", ladder.name, len(climbs), len(ladders.LADDERS))
    return LadderReport(
        provenance=scorer.provenance,
        synthetic=scorer.manifest.training.synthetic,
        photographs=tuple(found.photograph for found in frames),
        size_px=frame_size(scorer.manifest.image),
        brisque=brisque is not None,
        climbs=tuple(climbs),
    )


def _plain(found: Climb) -> dict[str, Any]:
    """A climb without the ladder's function."""
    fields = ("name", "unit", "family", "severities")
    ladder = {name: getattr(found.ladder, name) for name in fields}
    figures = {name: getattr(found, name) for name in ("score", "attribute", "brisque", "lead")}
    return {
        **ladder,
        "attribute_name": found.ladder.attribute,
        "lead_of": found.ladder.compared,
        **{name: None if figure is None else asdict(figure) for name, figure in figures.items()},
    }
