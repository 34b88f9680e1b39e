"""What a reader hands over, and what readers share: splits, folders of images, rows that may be wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from schemas.annotations import Annotation, Split
from schemas.errors import ConfigurationError

TRAIN_PERCENT, VALIDATION_PERCENT = 70, 10
"""Of images whose data set has no official split; the rest is for testing. KonIQ-10k's own shares."""


@dataclass(frozen=True)
class PublicDataset:
    """A public data set's labels.

    Attributes:
        annotations: ``image`` is an absolute path, not yet looked at; mos and mos_std on the native scale.
        native_low, native_high: Range of that scale.
        notes: What the reader had to decide or leave out, one sentence each.
    """

    annotations: tuple[Annotation, ...]
    native_low: float
    native_high: float
    notes: tuple[str, ...] = ()


class Placed(Protocol):
    """Something that stands somewhere in a file."""

    @property
    def place(self) -> str:
        """File and line, for errors."""
        ...


_P = TypeVar("_P", bound=Placed)


def hash_split(source: str) -> Split:
    """Draw a split from the text of a source: the same on every computer and in every order.

    70 % train, 10 % validation, 20 % test, by sha256.
    """
    drawn = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % 100
    if drawn < TRAIN_PERCENT:
        return "train"
    return "validation" if drawn < TRAIN_PERCENT + VALIDATION_PERCENT else "test"


HASH_SPLIT_NOTE = (
    f"no official split: {TRAIN_PERCENT} % train, {VALIDATION_PERCENT} % validation, "
    f"{100 - TRAIN_PERCENT - VALIDATION_PERCENT} % test, by hash of the source"
)


def annotated(rows: Iterable[_P], annotate: Callable[[_P], Annotation | None]) -> tuple[Annotation, ...]:
    """Make annotations of rows; a None is left out.

    Raises:
        ConfigurationError: Every row of which ``annotate`` raises a ValueError, with its place; or there is
            no annotation at all.
    """
    found, problems, place = [], [], "no rows"
    for row in rows:
        place = row.place
        try:
            annotation = annotate(row)
        except ValidationError as error:
            problems += [
                f"{place}: {'.'.join(map(str, part['loc']))}: {part['msg']}"
                for part in error.errors(include_url=False)
            ]
        except ValueError as error:
            problems.append(f"{place}: {error}")
        else:
            found += [annotation] if annotation else []
    if problems:
        raise ConfigurationError(problems)
    if not found:
        raise ConfigurationError(f"no image is annotated ({place})")
    return tuple(found)


def existing(folder: Path, candidates: Sequence[str], what: str) -> Path:
    """The first of several paths that is there.

    Args:
        folder: Of the data set.
        candidates: Relative to it; "." is the folder itself.
        what: For the error.

    Raises:
        ConfigurationError: None is there; the message lists where it was looked for.
    """
    for candidate in candidates:
        if (folder / candidate).exists():
            return (folder / candidate).absolute()
    raise ConfigurationError(f"{folder}: no {what}; looked for {', '.join(candidates)}")
