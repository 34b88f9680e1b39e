"""AVA (Murray et al., CVPR 2012): photographs of a photographers' contest, votes from 1 to 10.

    AVA.txt          15 numbers a line: index, image id, votes for 1 … 10, two semantic tags, challenge id
    challenges.txt   challenge id and title: the context of its images
    images/ID.jpg    not part of the release; also accepted: images/images, image
    aesthetics_image_lists/generic_test.jpgl   image ids of the official test set

mos is the mean vote, mos_std the standard deviation of the votes. With the list, its images are for testing
and the others for training; without it the split is by hash. A challenge without title gives no context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.annotations import Annotation, Split
from schemas.errors import ConfigurationError
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, annotated, existing, hash_split

_IMAGES = ("images/images", "images", "image")
_TEST_LISTS = ("aesthetics_image_lists/generic_test.jpgl", "generic_test.jpgl")
_NUMBERS = 15
_OFFICIAL = "images in generic_test.jpgl are for testing, the others for training"


@dataclass(frozen=True)
class _Line:
    file: Path
    number: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.number}"


def read_ava(folder: Path) -> PublicDataset:
    """Read mean and standard deviation of the votes, 1–10, and the challenges' titles as context."""
    images = existing(folder, _IMAGES, "folder of images")
    titles = _titles(existing(folder, ("challenges.txt",), "list of challenges"))
    test = _test_ids(folder)
    untitled: set[int] = set()

    def annotate(line: _Line) -> Annotation:
        numbers = _whole_numbers(line.text)
        image_id, votes, challenge = numbers[1], numbers[2:12], numbers[14]
        mos, std = mean_and_std(votes)
        if challenge not in titles:
            untitled.add(challenge)
        split: Split = hash_split(str(image_id)) if test is None else "test" if image_id in test else "train"
        return Annotation(
            image=str(images / f"{image_id}.jpg"),
            mos=mos,
            mos_std=std,
            context=titles.get(challenge),
            split=split,
        )

    found = annotated(_lines(existing(folder, ("AVA.txt",), "list of votes")), annotate)
    notes = [HASH_SPLIT_NOTE if test is None else _OFFICIAL]
    if untitled:
        without = sum(annotation.context is None for annotation in found)
        notes.append(f"images without context, as challenges.txt has no title for their challenge: {without}")
    return PublicDataset(found, 1, 10, tuple(notes))


def mean_and_std(votes: Sequence[int]) -> tuple[float, float]:
    """Mean and (population) standard deviation of votes.

    Args:
        votes: How many there are for 1, 2, 3, …

    Raises:
        ValueError: There are none, or fewer than none.
    """
    count = sum(votes)
    if min(votes) < 0 or count == 0:
        raise ValueError(f"{list(votes)} are no votes")
    mean = sum(value * n for value, n in enumerate(votes, 1)) / count
    return mean, math.sqrt(sum(n * (value - mean) ** 2 for value, n in enumerate(votes, 1)) / count)


def _whole_numbers(text: str) -> list[int]:
    parts = text.split()
    if len(parts) != _NUMBERS:
        raise ValueError(f"{len(parts)} numbers, not {_NUMBERS}")
    return [int(part) for part in parts]


def _lines(file: Path) -> list[_Line]:
    try:
        text = file.read_text(encoding="utf-8", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: {error}") from error
    return [_Line(file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _titles(file: Path) -> dict[int, str]:
    titles, problems = {}, []
    for line in _lines(file):
        number, _, title = line.text.strip().partition(" ")
        if number.isdigit() and title.strip():
            titles[int(number)] = " ".join(title.split())
        else:
            problems.append(f"{line.place}: no challenge id and title: {line.text.strip()!r}")
    if problems:
        raise ConfigurationError(problems)
    return titles


def _test_ids(folder: Path) -> set[int] | None:
    files = [folder / name for name in _TEST_LISTS if (folder / name).exists()]
    if not files:
        return None
    lines = _lines(files[0])
    wrong = [line for line in lines if not line.text.strip().isdigit()]
    if wrong:
        raise ConfigurationError([f"{line.place}: {line.text.strip()!r} is no image id" for line in wrong])
    return {int(line.text) for line in lines}
