"""The drawn figures that demo pictures get as subjects and as foreign objects: free cut-outs with alpha.

``cutouts.csv`` names each with licence, author and origin, and fixes the splits: figures of ``test`` are
never seen in training. They come from the same Debian package as the photographs.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from PIL import Image

from schemas.errors import ConfigurationError
from training.demo.scenes import cut_to_outline

CutoutSplit = Literal["train", "test"]

_LONGEST_SIDE_PX = 320
"""More than any picture of the demo shows of a figure."""


@dataclass(frozen=True, slots=True)
class Cutout:
    """One line of ``cutouts.csv``.

    Attributes:
        source: Package and resource ("gcompris-qt-data:lang").
        path: Path below the folder of unpacked files.
        licence, author, origin: Who made it, and what may be done with it.
        split: ``train`` or ``test``.
    """

    source: str
    path: str
    licence: str
    author: str
    origin: str
    split: str

    @property
    def resource(self) -> str:
        """Name of the resource file in the Debian package."""
        return self.source.partition(":")[2]


def cutout_catalogue(split: CutoutSplit | None = None) -> tuple[Cutout, ...]:
    """The cut-outs of one split or all, in the catalogue's order."""
    text = resources.files("training.demo").joinpath("cutouts.csv").read_text(encoding="utf-8")
    found = (Cutout(**row) for row in csv.DictReader(io.StringIO(text)))
    return tuple(cutout for cutout in found if split is None or cutout.split == split)


def load_cutouts(split: CutoutSplit, unpacked: Path) -> list[Image.Image]:
    """Read the cut-outs of a split as RGBA, cut to their outlines.

    Args:
        split: Which.
        unpacked: Folder of the unpacked files (``photographs.fetch``).

    Raises:
        ConfigurationError: Cut-outs are missing or damaged; names all.
    """
    found, problems = [], []
    for cutout in cutout_catalogue(split):
        try:
            with Image.open(unpacked / cutout.path) as image:
                picture = cut_to_outline(image.convert("RGBA"))
        except OSError as error:
            problems.append(f"{unpacked / cutout.path}: {error}")
            continue
        picture.thumbnail((_LONGEST_SIDE_PX, _LONGEST_SIDE_PX), Image.Resampling.LANCZOS)
        found.append(picture)
    if problems:
        raise ConfigurationError(problems)
    return found
