"""A public data set becomes one of ours: annotations.jsonl and dataset.json; images stay where they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from training.annotation_files import write_annotations
from training.dataset_file import DatasetFacts, write_facts
from training.layouts.registry import layout

_MOST_NAMED = 20


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        facts: As in dataset.json.
        splits: Annotations by split.
    """

    facts: DatasetFacts
    splits: dict[str, int]


def import_dataset(name: str, source: Path, destination: Path, *, skip_missing: bool = False) -> Imported:
    """Convert a public data set's labels.

    Args:
        name: Of the layout.
        source: The data set's folder; only read.
        destination: New or empty. Images are named in it by absolute path.
        skip_missing: Leave out entries whose image file is not there, and note how many.

    Raises:
        ConfigurationError: Files are missing or wrong, every row named; an image is not there; the
            destination is not empty.
    """
    known = layout(name)
    if not source.exists():
        raise ConfigurationError(f"{source}: there is no such folder")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigurationError(f"{destination} is there already and not an empty folder")
    labelled = known.read(source)
    there: list[Annotation] = []
    missing: list[Annotation] = []
    for annotation in labelled.annotations:
        (there if Path(annotation.image).is_file() else missing).append(annotation)
    notes = labelled.notes
    if missing and not (skip_missing and there):
        raise ConfigurationError(_missing(missing))
    if missing:
        notes += (f"entries left out, as their image file was not there: {len(missing)}",)
    facts = DatasetFacts(
        name=known.title,
        layout=known.name,
        native_low=labelled.native_low,
        native_high=labelled.native_high,
        notes=notes,
    )
    write_annotations(destination, there)
    write_facts(destination, facts)
    return Imported(facts, dict(Counter(annotation.split for annotation in there)))


def _missing(missing: list[Annotation]) -> list[str]:
    named = [f"there is no image file {annotation.image}" for annotation in missing[:_MOST_NAMED]]
    if len(missing) > _MOST_NAMED:
        named.append(f"and {len(missing) - _MOST_NAMED} more image files are not there")
    return named
