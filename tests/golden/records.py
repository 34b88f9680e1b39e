"""The golden file: what the shipped adapter said about the golden photographs, and when a run differs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.attributes import VOCABULARY
from schemas.records import Prediction

GOLDEN_FILE = Path(__file__).parent / "embedded.json"

TOLERANCE = 1e-3
TOLERANCE_MEANING = (
    "largest absolute difference of any number but score_greedy: scores lie in 0-10, expected codes in 1-10, "
    "confidences and format_mass in 0-1. With the first embedded model, threads, batch size, company, oneDNN "
    "and the processor's vector width moved no number by 1e-5; one grey level up or down in every pixel "
    "moved the score by about 1e-2. Decided values and score_greedy are equal, except those called "
    "unclear: one grey level up or down in every pixel changed them."
)

DECIDED = (*(attribute.name for attribute in VOCABULARY.evaluated), "score_greedy")
"""Fields that a prediction decides; the further numbers are computed."""

NUMBERS = (
    "score",
    "score_std",
    "composite_score",
    "format_mass",
    *(
        f"{attribute.name}_{part}"
        for attribute in VOCABULARY.evaluated
        for part in ("expected", "confidence")
    ),
)
"""Fields that a prediction computes, of 0-10 or less."""

NOT_COMPARED = ("score_native", "subject_and_background", "reasons", "context_used")
"""The score again, on a scale of any length; free text; what was given."""

Verdict = Literal["same", "forked", "DIFFERS"]


class GoldenHeader(BaseModel):
    """What the predictions were made with; only a change of ``adapter_revision`` makes the file outdated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str
    adapter_revision: str
    engine_version: str
    torch: str
    transformers: str
    pillow: str
    device: str
    dtype: str
    cpu_capability: str
    batch: int
    threads: int
    tolerance: float
    tolerance_meaning: str


class GoldenRecord(BaseModel):
    """One photograph under one template.

    Attributes:
        photograph: Its name in ``tests.golden.photographs``.
        template: Answer template.
        pixels_sha256: Of what the model saw: (height, width, 3) uint8 at the adapter's pixel budget.
        unclear: Fields of ``DECIDED`` that one grey level up or down in every pixel changes.
        prediction: Floats rounded to six decimals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    photograph: str
    template: str
    pixels_sha256: str
    unclear: tuple[str, ...]
    prediction: Prediction


class Golden(BaseModel):
    """The golden file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    header: GoldenHeader
    records: tuple[GoldenRecord, ...]

    @property
    def by_key(self) -> dict[tuple[str, str], GoldenRecord]:
        """Records by photograph and template, in order."""
        return {(record.photograph, record.template): record for record in self.records}


class Comparison(BaseModel):
    """How a prediction differs from the golden one.

    Attributes:
        changed: Decided fields with another value.
        number: The number that moved most.
        moved: By how much.
        same_pixels: Whether the model saw the same picture.
        verdict: ``forked``: an unclear value was decided the other way and the answer went on from there, so
            that its numbers are not to be compared.
    """

    model_config = ConfigDict(frozen=True)

    golden: GoldenRecord
    found: GoldenRecord
    changed: tuple[str, ...]
    number: str
    moved: float
    same_pixels: bool
    verdict: Verdict

    def __str__(self) -> str:
        """One line of the table of differences."""
        name = f"{self.golden.photograph} ({self.golden.template})"
        old, new = self.golden.prediction, self.found.prediction
        line = (
            f"{name:<34}{_shown(old.score):>9}{_shown(new.score):>9}  "
            f"{self.verdict:<8} {self.number} {self.moved:.1e}"
        )
        for field in self.changed:
            unclear = " (unclear)" if field in self.golden.unclear else ""
            line += f"; {field}: {getattr(old, field)} → {getattr(new, field)}{unclear}"
        return line if self.same_pixels else f"{line}; the model saw other pixels"


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:.4f}"


def read_golden() -> Golden:
    """Read the golden file."""
    return Golden.model_validate_json(GOLDEN_FILE.read_text(encoding="utf-8"))


def write_golden(golden: Golden) -> None:
    """Replace the golden file."""
    GOLDEN_FILE.write_text(golden.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")


def problems(golden: Golden, found: Golden) -> list[str]:
    """Say why predictions cannot be held to the golden file; empty where they can."""
    old, new = golden.header.adapter_revision, found.header.adapter_revision
    said = []
    if old != new:
        said.append(f"the golden file is of adapter revision {old[:12]}, the shipped adapter is {new[:12]}")
    if unpaired := sorted(golden.by_key.keys() ^ found.by_key.keys()):
        names = ", ".join(f"{photograph} ({template})" for photograph, template in unpaired)
        said.append(f"only the golden file or only this run has: {names}")
    if said:
        said.append(
            "look at what changed with `python -m tests.golden`, then write the file anew with "
            "`python -m tests.golden --write`"
        )
    return said


def compare(golden: GoldenRecord, found: GoldenRecord, tolerance: float) -> Comparison:
    """Compare one prediction with the golden one of the same photograph and template."""
    old, new = golden.prediction, found.prediction
    changed = tuple(field for field in DECIDED if getattr(old, field) != getattr(new, field))
    moved = {field: _distance(getattr(old, field), getattr(new, field)) for field in NUMBERS}
    number = max(moved, key=lambda field: moved[field])
    if set(changed) & set(golden.unclear):
        verdict: Verdict = "forked"
    else:
        verdict = "DIFFERS" if changed or moved[number] > tolerance else "same"
    return Comparison(
        golden=golden,
        found=found,
        changed=changed,
        number=number,
        moved=moved[number],
        same_pixels=golden.pixels_sha256 == found.pixels_sha256,
        verdict=verdict,
    )


def compare_all(golden: Golden, found: Golden) -> list[Comparison]:
    """Compare the predictions that both have, by the golden file's tolerance."""
    fresh = found.by_key
    return [
        compare(record, fresh[key], golden.header.tolerance)
        for key, record in golden.by_key.items()
        if key in fresh
    ]


def _distance(old: float | None, new: float | None) -> float:
    if old is None or new is None:
        return 0.0 if old is new else float("inf")
    return abs(old - new)
