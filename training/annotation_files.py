"""Our annotation format as files: a folder with ``annotations.jsonl`` and the images that it names.

Every line is one ``schemas.annotations.Annotation`` as a JSON object. ``image`` is relative to the folder (or
an absolute path); labels that an image lacks are left out:

    {"image": "a.jpg", "mos": 6.2, "exposure": "overexposed", "source": "beach", "split": "test"}

``annotations.parquet`` is the same as a table: columns named as the fields, null where a label is missing,
columns that no image has a label for left out. A folder has the one or the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY, Vocabulary
from schemas.errors import ConfigurationError
from training.text_files import replace_text

ANNOTATIONS_NAME = "annotations.jsonl"
PARQUET_NAME = "annotations.parquet"

_PARQUET_ROWS = 4096  # read at a time

_Parsed = tuple[int, Annotation | list[str]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file of annotations, checked by itself and against those before it.

    Attributes:
        number: From 1; a line of JSON, or a row of Parquet.
        annotation: None where the line cannot be read as one.
        problems: What is wrong with it, one sentence each.
    """

    number: int
    annotation: Annotation | None
    problems: tuple[str, ...]


def read_annotations(
    path: Path, split: Split | None = None, *, vocabulary: Vocabulary = VOCABULARY
) -> list[Annotation]:
    """Read a data set's annotations, and check all of them.

    Args:
        path: The folder, or the file of annotations itself.
        split: Only this part; None = all. Lines of other parts are checked too, but for their image files.
        vocabulary: The labels that an annotation may hold.

    Returns:
        Annotations in the order of the file, as they stand there; ``image_file`` finds their images.

    Raises:
        ConfigurationError: Every bad line with its number: not JSON, a field that is unknown or out of range,
            a label that the vocabulary does not know, an image named twice or missing, a source on both sides
            of a split. Or there is no such file, or nothing in it is of the split.
    """
    file = annotations_file(path)
    problems: list[tuple[int, str]] = []
    wanted: list[Annotation] = []
    for row in checked_rows(file, vocabulary):
        problems += [(row.number, reason) for reason in row.problems]
        if row.annotation is None or split not in (None, row.annotation.split):
            continue
        wanted.append(row.annotation)
        if not image_file(path, row.annotation).is_file():
            problems.append((row.number, f"there is no image file {row.annotation.image}"))
    if problems:
        raise ConfigurationError([f"{place(file, number)}: {reason}" for number, reason in sorted(problems)])
    if not wanted:
        raise ConfigurationError(f"{file}: no annotation" + (f" of split {split!r}" if split else ""))
    return wanted


def checked_rows(file: Path, vocabulary: Vocabulary = VOCABULARY) -> Iterator[Row]:
    """Read a file of annotations line by line; image files are not looked at.

    Args:
        file: As ``annotations_file`` names it.
        vocabulary: The labels that an annotation may hold.

    Raises:
        ConfigurationError: The file cannot be read, or is Parquet with columns that are no fields.
    """
    repeats = _Repeats(_word(file))
    for number, found in _parquet_rows(file) if file.suffix == ".parquet" else _json_lines(file):
        if isinstance(found, Annotation):
            yield Row(number, found, (*found.problems(vocabulary), *repeats.of(number, found)))
        else:
            yield Row(number, None, tuple(found))


def place(file: Path, number: int) -> str:
    """A file and a line (or row) of it, for errors."""
    return f"{file}, {_word(file)} {number}"


def write_annotations(folder: Path, annotations: Sequence[Annotation]) -> Path:
    """Write a folder's annotations, all or nothing; a file that is there already is replaced.

    Args:
        folder: Made if it is not there. The images are the caller's to put there.
        annotations: One line each; labels that are None are left out.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [annotation.model_dump_json(exclude_none=True) + "\n" for annotation in annotations]
    file = folder / ANNOTATIONS_NAME
    replace_text(file, "".join(lines))
    return file


def annotations_file(path: Path) -> Path:
    """The file of annotations of a data set: in its folder, or the path itself.

    Raises:
        ConfigurationError: The folder holds both kinds.
    """
    if not path.is_dir():
        return path
    lines, table = path / ANNOTATIONS_NAME, path / PARQUET_NAME
    if lines.exists() and table.exists():
        raise ConfigurationError(f"{path} holds both {ANNOTATIONS_NAME} and {PARQUET_NAME}: which one holds?")
    return table if table.exists() else lines


def image_file(path: Path, annotation: Annotation) -> Path:
    """Where an annotation's image is, for the path that its data set was read from."""
    return (path if path.is_dir() else path.parent) / annotation.image


def _json_lines(file: Path) -> Iterator[_Parsed]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield number, Annotation.model_validate_json(line)
                except ValidationError as error:
                    yield number, _reasons(error)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from error


def _parquet_rows(file: Path) -> Iterator[_Parsed]:
    try:
        with pq.ParquetFile(file) as table:
            _check_columns(file, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(_PARQUET_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    labels = {name: value for name, value in record.items() if value is not None}
                    try:
                        yield number, Annotation.model_validate(labels)
                    except ValidationError as error:
                        yield number, _reasons(error)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{file}: {getattr(error, 'strerror', None) or error}") from error


def _check_columns(file: Path, names: Sequence[str]) -> None:
    fields = Annotation.model_fields
    unknown = [name for name in names if name not in fields]
    problems = [f"{file}: column {name!r} is no field of an annotation" for name in unknown]
    if "image" not in names:
        problems.append(f"{file}: there is no column 'image'")
    if problems:
        raise ConfigurationError(problems)


def _word(file: Path) -> str:
    return "row" if file.suffix == ".parquet" else "line"


def _reasons(error: ValidationError) -> list[str]:
    reasons = []
    for part in error.errors(include_url=False):
        where = ".".join(str(step) for step in part["loc"])
        reasons.append(f"{where}: {part['msg']}" if where else str(part["msg"]))
    return reasons


class _Repeats:
    """What would count a picture twice, or put it on both sides of a split."""

    def __init__(self, word: str) -> None:
        self._word = word
        self._images: dict[str, int] = {}
        self._sources: dict[str, tuple[int, str]] = {}

    def of(self, number: int, found: Annotation) -> list[str]:
        problems = []
        first = self._images.setdefault(found.image, number)
        if first != number:
            problems.append(f"{found.image} was annotated in {self._word} {first} already")
        if found.source is None:
            return problems
        line, split = self._sources.setdefault(found.source, (number, found.split))
        if split != found.split:
            problems.append(
                f"source {found.source!r} is in split {found.split!r}, "
                f"but in {split!r} in {self._word} {line}"
            )
        return problems
