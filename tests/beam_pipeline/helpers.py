"""What the tests of the pipeline share: photographs drawn in code, and reading an output back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.scoring.engine import EngineSettings
from schemas.records import (
    ImageFacts,
    ImageRef,
    ImageScore,
    Outcome,
    Prediction,
    Provenance,
    ScoringFailure,
)
from tests.odd_files import encoded, picture

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = EngineSettings(
    fetch_threads=2, prefetch_images=8, micro_batch_images=4, token_budget=None, max_file_bytes=10**7
)


def write_photos(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write small distinct JPEGs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(first, first + count):
        path = folder / f"photo_{number:04}.jpg"
        path.write_bytes(encoded(picture(40, 30, seed=number), "JPEG"))
        paths.append(path)
    return paths


def rows(output: Path, table: str) -> list[dict[str, Any]]:
    """All rows of one table, as a reader of plain Parquet files finds them."""
    files = sorted((output / table).glob("date=*/*.parquet"))
    tables = [pq.ParquetFile(file).read() for file in files]
    return pa.concat_tables(tables).to_pylist() if tables else []


def files(output: Path) -> dict[str, bytes]:
    """Every file below an output, but the summary."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "_summary.json"
    }


def ref(uri: str, **known: Any) -> ImageRef:
    return ImageRef(**{"image_uri": uri, "image_generation": 1, "event_time": NOW} | known)


def score(
    image: ImageRef, value: float | None = 5.0, revision: str = "r1", run: str = "run", **known: Any
) -> ImageScore:
    who = Provenance("base", "adapter", revision, "default", "digit_tree", "0", "cpu", "float32")
    prediction = Prediction(score=value, format_mass=known.pop("format_mass", 0.9), **known)
    return ImageScore(image, ImageFacts("id", 4, 3, 12), prediction, who, run, NOW)


def failure(image: ImageRef, revision: str = "r1", run: str = "run") -> ScoringFailure:
    return ScoringFailure(
        image, ImageFacts(), "decode", "DecodeError", "broken", False, "adapter", revision, run, NOW
    )


def challenging(outcome: Outcome) -> Outcome:
    """The same outcome, come to by a challenger."""
    if isinstance(outcome, ScoringFailure):
        return replace(outcome, role="challenger")
    return replace(outcome, provenance=replace(outcome.provenance, role="challenger"))


def uris(outcomes: list[Outcome]) -> list[str]:
    return [outcome.ref.image_uri for outcome in outcomes]


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.outcomes: list[Outcome] = []
        self.challenged_outcomes: list[Outcome] = []
        self.switches: list[float] = []
        self.failed_switches = 0
        self.reads = 0

    def fetched(self, milliseconds: float) -> None:
        self.reads += 1

    def decoded(self, milliseconds: float) -> None:
        pass

    def predicted(self, images: int, visual_tokens: int, milliseconds: float) -> None:
        self.batches.append(images)

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def challenged(self, outcome: Outcome) -> None:
        self.challenged_outcomes.append(outcome)

    def adapter_switched(self, milliseconds: float) -> None:
        self.switches.append(milliseconds)

    def adapter_switch_failed(self) -> None:
        self.failed_switches += 1
