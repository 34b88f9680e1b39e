"""Is a data set fit for training: rows, labels, ranges, files, and splits that do not share pictures."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY, Vocabulary
from schemas.errors import ConfigurationError
from training.annotation_files import annotations_file, checked_rows, image_file, place
from training.dataset_file import DATASET_NAME, read_facts
from training.file_checks import FileFacts, check_files
from training.near_duplicates import near_pairs
from training.score_ranges import ScoreRange

HISTOGRAM_BINS = 10

_SMALLEST_MEDIAN_STD = 0.01
"""Of the range: people's votes differ by more, so a smaller one is on another scale than mos."""


@dataclass(frozen=True, order=True)
class Problem:
    """Something that is wrong.

    Attributes:
        row: Line or row of the file of annotations; 0 where it is the whole set.
        reason: One sentence.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Validation:
    """What a check found.

    Attributes:
        file: Of annotations.
        rows: Annotations in it, bad ones included.
        decoded: Whether files were decoded, and near-duplicates looked for.
        native: Range of mos; None where nobody says it.
        splits: Annotations by split.
        labels: Attribute → value → split → how often. Free text is only counted, as "(words)".
        mos: Split → count in each of ``HISTOGRAM_BINS`` equal parts of ``histogram_range``.
        histogram_range: The native range, else the lowest and highest mos; None without any mos.
        problems: Everything that is wrong, by row.
        notes: What is no error but worth knowing.
    """

    file: Path
    rows: int
    decoded: bool
    native: ScoreRange | None
    splits: dict[str, int]
    labels: dict[str, dict[str, dict[str, int]]]
    mos: dict[str, list[int]]
    histogram_range: ScoreRange | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def where(self, problem: Problem) -> str:
        """File and row of a problem."""
        return place(self.file, problem.row) if problem.row else str(self.file)


@dataclass
class _Tally:
    """What is known after some rows."""

    file: Path
    native: ScoreRange | None
    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)
    labels: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    mos: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    stds: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the rows whose files are checked
    sides: list[str] = field(default_factory=list)

    def add(self, number: int, reasons: Iterable[str]) -> None:
        self.problems += [Problem(number, reason) for reason in reasons]


def validate(
    data: Path,
    *,
    mos_range: ScoreRange | None = None,
    vocabulary: Vocabulary = VOCABULARY,
    decode: bool = True,
) -> Validation:
    """Check a data set of ours.

    Args:
        data: Its folder, or the file of annotations itself.
        mos_range: Of its mos, where no dataset.json says it.
        vocabulary: The labels that it may hold.
        decode: Decode every image as serving does, and look for near-duplicates across splits.

    Raises:
        ConfigurationError: Nothing can be checked: no such file, not Parquet, a broken dataset.json, or one
            that gives another range than ``mos_range``.
    """
    file = annotations_file(data)
    tally = _Tally(file, _native(file, mos_range))
    files = check_files(_files(data, tally, vocabulary), decode=decode)
    contents, pictures = _checked(files, tally)
    if not tally.rows:
        tally.add(0, ["there is no annotation"])
    tally.add(0, _std_problems(tally))
    notes = [*_shared_files(contents, tally), *_notes(tally)]
    for first, second in near_pairs(pictures, tally.sides):
        if contents[first] != contents[second]:
            tally.add(tally.numbers[second], [f"nearly the same picture as {_other(tally, first, second)}"])
    span = tally.native or _span(tally.mos)
    return Validation(
        file=file,
        rows=tally.rows,
        decoded=decode,
        native=tally.native,
        splits=dict(tally.splits),
        labels={
            name: {value: dict(counts) for value, counts in values.items()}
            for name, values in tally.labels.items()
        },
        mos={split: _histogram(values, span) for split, values in tally.mos.items() if span},
        histogram_range=span,
        problems=tuple(sorted(tally.problems)),
        notes=tuple(notes),
    )


def _native(file: Path, mos_range: ScoreRange | None) -> ScoreRange | None:
    facts = read_facts(file.parent)
    if facts and mos_range and facts.native != mos_range:
        raise ConfigurationError(
            f"{file.parent / DATASET_NAME} says that mos is {facts.native_low:g}–{facts.native_high:g}, "
            f"not {mos_range[0]:g}–{mos_range[1]:g}"
        )
    return facts.native if facts else mos_range


def _files(data: Path, tally: _Tally, vocabulary: Vocabulary) -> Iterator[Path]:
    """Check rows as they are read; yield the files of those that are annotations."""
    for row in checked_rows(tally.file, vocabulary):
        tally.rows += 1
        tally.add(row.number, row.problems)
        if row.annotation is None:
            continue
        tally.add(row.number, _range_problems(row.annotation, tally.native))
        _count(row.annotation, tally, vocabulary)
        tally.numbers.append(row.number)
        tally.sides.append(row.annotation.split)
        yield image_file(data, row.annotation)


def _checked(files: Iterator[FileFacts], tally: _Tally) -> tuple[list[bytes | None], list[int | None]]:
    contents, pictures = [], []
    for index, facts in enumerate(files):
        contents.append(facts.content)
        pictures.append(facts.picture)
        if facts.problem:
            tally.add(tally.numbers[index], [f"image file: {facts.problem}"])
    return contents, pictures


def _range_problems(found: Annotation, native: ScoreRange | None) -> Iterator[str]:
    if found.mos is None and found.mos_std is not None:
        yield "mos_std without mos"
    if native is None:
        return
    low, high = native
    if found.mos is not None and not low <= found.mos <= high:
        yield f"mos {found.mos:g} is outside {low:g}–{high:g}"
    # Two votes, one at either end, differ most.
    widest = (high - low) / math.sqrt(2)
    if found.mos_std is not None and found.mos_std > widest:
        yield f"mos_std {found.mos_std:g} is more than votes in {low:g}–{high:g} can have ({widest:.3g})"


def _count(found: Annotation, tally: _Tally, vocabulary: Vocabulary) -> None:
    tally.splits[found.split] += 1
    for attribute in vocabulary.attributes:
        value = getattr(found, attribute.name)
        if value is not None:
            shown = "(words)" if attribute.kind == "text" else str(value)
            values = tally.labels.setdefault(attribute.name, {})
            values.setdefault(shown, Counter())[found.split] += 1
    if found.mos is not None:
        tally.mos[found.split].append(found.mos)
    if found.mos_std is not None:
        tally.stds.append(found.mos_std)


def _std_problems(tally: _Tally) -> Iterator[str]:
    if not (tally.stds and tally.native):
        return
    share = statistics.median(tally.stds) / (tally.native[1] - tally.native[0])
    if share < _SMALLEST_MEDIAN_STD:
        yield (
            f"the median mos_std is {share:.2%} of the range {tally.native[0]:g}–{tally.native[1]:g}: "
            "it seems to be on another scale than mos"
        )


def _shared_files(contents: list[bytes | None], tally: _Tally) -> Iterator[str]:
    """Add problems for bytes on both sides of a split; note those twice on one side."""
    first_of: dict[bytes, int] = {}
    twice = 0
    for index, content in enumerate(contents):
        if content is None:
            continue
        first = first_of.setdefault(content, index)
        if tally.sides[first] != tally.sides[index]:
            tally.add(tally.numbers[index], [f"the same file as {_other(tally, first, index)}"])
        elif first != index:
            twice += 1
    if twice:
        yield f"files with the same bytes as another of their split: {twice}"


def _other(tally: _Tally, first: int, second: int) -> str:
    row = place(tally.file, tally.numbers[first]).rpartition(", ")[2]
    return f"{row}, but in split {tally.sides[second]!r}, not {tally.sides[first]!r}"


def _notes(tally: _Tally) -> Iterator[str]:
    if tally.mos and tally.native is None:
        yield f"the range of mos is not checked: no {DATASET_NAME} says it, and no --mos-range"
    for split in ("train", "test"):
        if tally.rows and not tally.splits[split]:
            yield f"no annotation is in split {split!r}"


def _span(mos: dict[str, list[float]]) -> ScoreRange | None:
    values = [value for of_split in mos.values() for value in of_split]
    return (min(values), max(values)) if values else None


def _histogram(values: list[float], span: ScoreRange) -> list[int]:
    """Counts in equal parts; values outside count with the end that they are beyond."""
    low, high = span
    width = (high - low) / HISTOGRAM_BINS or 1.0
    counts = [0] * HISTOGRAM_BINS
    for value in values:
        counts[min(HISTOGRAM_BINS - 1, max(0, int((value - low) / width)))] += 1
    return counts
