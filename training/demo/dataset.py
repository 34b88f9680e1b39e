"""The demo's data set, a data set like any other: a folder of pictures with ``annotations.jsonl``.

Pictures of ``test`` are made of photographs and cut-outs that no picture of ``train`` holds; ``validation``
is a part of what ``train`` has, set aside where both are asked for.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image

from schemas.annotations import Annotation, Split
from schemas.manifest import ImageRule
from training.annotation_files import write_annotations
from training.demo.captions import Captions, informative_context
from training.demo.cutouts import CutoutSplit, load_cutouts
from training.demo.photo_files import PhotoFile, photographs_of_folder
from training.demo.photographs import catalogue_files, fetch
from training.demo.pictures import Props, degraded_picture, photograph_order, props, shrunk_photograph

_LOG = logging.getLogger(__name__)

EvaluationSplit = Literal["test", "validation"]
_T = TypeVar("_T")

PICTURES: Mapping[Split, int] = {"train": 6000, "test": 600, "validation": 600}
"""Of the full run."""
SEED = 11
"""Of the training pictures; those to test on take the next number, those to validate on the one after."""
LESSONS_SEED = 100
"""Of the pictures that only the eyes see (``lessons``)."""
EVERY_PHOTOGRAPH, EVERY_CUTOUT = 8, 5
"""Of those for training, ``validation`` has every so many, from the first on."""
_PARTS = 4


@dataclass(frozen=True, slots=True)
class Material:
    """What the pictures of one split are made of.

    Attributes:
        photographs: Their files.
        cutouts: Subjects and foreign objects, RGBA.
    """

    photographs: Sequence[PhotoFile]
    cutouts: Sequence[Image.Image]


@dataclass(frozen=True, slots=True)
class DataSettings:
    """How many pictures, and how they come out.

    Attributes:
        counts: Pictures by split; splits left out are not made.
        rule: Pixel budget, which lengths refer to.
        seed: Same seed, same pictures; the test pictures' is one more, the validation pictures' two.
        processes: Pictures are made in so many; the result does not depend on it.
        captions: What contexts say: for two pictures in five words that have nothing to do with quality, or
            for every other one what was done to it. Pictures and labels do not depend on it.
    """

    counts: Mapping[Split, int]
    rule: ImageRule
    seed: int = SEED
    processes: int = 1
    captions: Captions = "uninformative"


def parts_of(splits: Sequence[Split]) -> set[CutoutSplit]:
    """The parts of the catalogues that splits draw from."""
    return {"test" if split == "test" else "train" for split in splits}


def share_out(
    splits: Sequence[Split], found: Mapping[CutoutSplit, Sequence[_T]], every: int
) -> dict[Split, list[_T]]:
    """Give every split its own.

    Args:
        splits: Which are wanted. Those that are wanted together share nothing: beside ``validation``,
            ``train`` is what that leaves.
        found: By part of the catalogue (``parts_of``), in order.
        every: So many for training, one for validation.
    """
    shares: dict[Split, list[_T]] = {}
    for split in splits:
        if split == "test":
            shares[split] = list(found["test"])
        elif split == "validation":
            shares[split] = list(found["train"][::every])
        else:
            whole = "validation" not in splits
            shares[split] = [one for index, one in enumerate(found["train"]) if whole or index % every]
    return shares


def find_photographs(
    splits: Sequence[Split], photos: Path | None, cache: Path
) -> dict[Split, list[PhotoFile]]:
    """Find photographs, fetching what is not there; arguments and errors as of ``find_material``."""
    if photos is None:
        files = {part: catalogue_files(part, cache) for part in parts_of(splits)}
    else:
        files = photographs_of_folder(photos)
    return share_out(splits, files, EVERY_PHOTOGRAPH)


def find_material(splits: Sequence[Split], photos: Path | None, cache: Path) -> dict[Split, Material]:
    """Find photographs and cut-outs, fetching what is not there.

    Args:
        splits: Of which splits (``share_out``).
        photos: Any folder of photographs; None = those of the catalogue.
        cache: Where fetched files are, or are to be put.

    Raises:
        ConfigurationError: They cannot be had, or the folder has too few.
    """
    photographs = find_photographs(splits, photos, cache)
    unpacked = fetch(cache)
    loaded = {part: load_cutouts(part, unpacked) for part in parts_of(splits)}
    cutouts = share_out(splits, loaded, EVERY_CUTOUT)
    return {split: Material(photographs[split], cutouts[split]) for split in splits}


def write_dataset(
    folder: Path, material: Mapping[Split, Material], settings: DataSettings
) -> dict[Split, tuple[Annotation, ...]]:
    """Write pictures and annotations; the annotations last: a folder without them is unfinished.

    Args:
        folder: Made if it is not there; pictures go into a folder for each split in it.
        material: Of every split that is wanted.
        settings: How many, and how.

    Returns:
        Their annotations, as written, by split.
    """
    seeds = {"train": settings.seed, "test": settings.seed + 1, "validation": settings.seed + 2}
    made = {}
    for split, count in settings.counts.items():
        stock = props(material[split].cutouts, settings.rule)
        work = _Work(folder, split, stock, settings.rule, seeds[split], settings.captions)
        (folder / split).mkdir(parents=True, exist_ok=True)
        made[split] = _pictures(work, material[split].photographs, count, settings.processes)
    write_annotations(folder, [one for annotations in made.values() for one in annotations])
    return made


@dataclass(frozen=True, slots=True)
class _Work:
    """What all pictures of a split share."""

    folder: Path
    split: Split
    stock: Props
    rule: ImageRule
    seed: int
    captions: Captions


_Part = list[tuple[PhotoFile, list[int]]]
"""Photographs, and the numbers of the pictures to make of each."""


def _pictures(
    work: _Work, photographs: Sequence[PhotoFile], count: int, processes: int
) -> tuple[Annotation, ...]:
    numbers: dict[int, list[int]] = {}
    for number, index in enumerate(photograph_order(len(photographs), count, work.seed)):
        numbers.setdefault(index, []).append(number)
    jobs = [(photographs[index], wanted) for index, wanted in sorted(numbers.items())]
    # Cut-outs travel with every part, so there are few parts; more than processes, so that all end together.
    number_of_parts = min(_PARTS * processes, len(jobs))
    parts = [jobs[start::number_of_parts] for start in range(number_of_parts)]
    found: dict[int, Annotation] = {}
    for made in _mapped(partial(_make, work), parts, processes):
        found |= made
        _LOG.info("%s pictures: %d of %d", work.split, len(found), count)
    return tuple(found[number] for number in range(count))


def _mapped(
    make: Callable[[_Part], dict[int, Annotation]], parts: list[_Part], processes: int
) -> Iterator[dict[int, Annotation]]:
    if processes == 1:
        yield from map(make, parts)
        return
    # Spawned, not forked: this process may have threads, whose locks a fork would copy as they stand.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as executor:
        yield from executor.map(make, parts)


def _make(work: _Work, part: _Part) -> dict[int, Annotation]:
    found = {}
    for file, numbers in part:
        photograph = shrunk_photograph(file.read(), work.rule)
        for number in numbers:
            picture = degraded_picture(photograph, work.stock, number, work.rule, work.seed)
            name = f"{work.split}/{picture.annotation.image}"
            annotation = picture.annotation.model_copy(update={"image": name, "split": work.split})
            if work.captions == "informative":
                context = informative_context(picture.severities, number, work.seed)
                annotation = annotation.model_copy(update={"context": context})
            (work.folder / name).write_bytes(picture.data)
            found[number] = annotation
    return found
