"""Our annotation format as files: a folder with ``annotations.jsonl`` and the images that it names.

Every line is one ``schemas.annotations.Annotation`` as a JSON object. ``image`` is relative to the folder (or
an absolute path); labels that an image lacks are left out:

    {"image": "a.jpg", "mos": 6.2, "exposure": "overexposed", "source": "beach", "split": "test"}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY, Vocabulary
from schemas.errors import ConfigurationError
from training.text_files import replace_text

ANNOTATIONS_NAME = "annotations.jsonl"

_Numbered = tuple[int, Annotation]
_Problem = tuple[int, str]


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
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from error
    numbered, problems = _parsed(lines)
    problems += [(number, reason) for number, found in numbered for reason in found.problems(vocabulary)]
    problems += _repeats(numbered)
    wanted = [(number, found) for number, found in numbered if split in (None, found.split)]
    problems += [
        (number, f"there is no image file {found.image}")
        for number, found in wanted
        if not image_file(path, found).is_file()
    ]
    if problems:
        raise ConfigurationError([f"{file}, line {number}: {reason}" for number, reason in sorted(problems)])
    if not wanted:
        raise ConfigurationError(f"{file}: no annotation" + (f" of split {split!r}" if split else ""))
    return [found for _, found in wanted]


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
    """The file of annotations of a data set: in its folder, or the path itself."""
    return path / ANNOTATIONS_NAME if path.is_dir() else path


def image_file(path: Path, annotation: Annotation) -> Path:
    """Where an annotation's image is, for the path that its data set was read from."""
    return annotations_file(path).parent / annotation.image


def _parsed(lines: Sequence[bytes]) -> tuple[list[_Numbered], list[_Problem]]:
    numbered: list[_Numbered] = []
    problems: list[_Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            numbered.append((number, Annotation.model_validate_json(line)))
        except ValidationError as error:
            problems += [(number, reason) for reason in _reasons(error)]
    return numbered, problems


def _reasons(error: ValidationError) -> Iterator[str]:
    for part in error.errors(include_url=False):
        where = ".".join(str(step) for step in part["loc"])
        yield f"{where}: {part['msg']}" if where else str(part["msg"])


def _repeats(numbered: Sequence[_Numbered]) -> list[_Problem]:
    """What would count a picture twice, or put it on both sides of a split."""
    problems: list[_Problem] = []
    images: dict[str, int] = {}
    sources: dict[str, tuple[int, str]] = {}
    for number, found in numbered:
        if found.image in images:
            problems.append((number, f"{found.image} was annotated in line {images[found.image]} already"))
        images.setdefault(found.image, number)
        if found.source is None:
            continue
        line, split = sources.setdefault(found.source, (number, found.split))
        if split != found.split:
            problems.append(
                (
                    number,
                    f"source {found.source!r} is in split {found.split!r}, but in {split!r} in line {line}",
                )
            )
    return problems
