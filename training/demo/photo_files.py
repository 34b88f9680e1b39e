"""Photographs as files: what the demo's pictures are made of, read one at a time."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageOps

from model.image_files import decoding, image_format, open_header
from model.image_modes import to_rgb
from model.images import inspect_image
from schemas.errors import ConfigurationError, DecodeError, ScoringError
from training.demo.cutouts import CutoutSplit
from training.demo.pictures import Photo

FEWEST_PHOTOGRAPHS = 10
SMALLEST_SIDE_PX = 200
_TEST_SHARE = 0.2
_HASH_DIGITS = 10
_NAME_LETTERS = 60


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photograph that is read when it is needed.

    Attributes:
        name: Unique in its data set.
        path: The file.
    """

    name: str
    path: Path

    def read(self) -> Photo:
        """Read it, RGB and upright.

        Raises:
            OSError: There is no such file.
            DecodeError: It is not a complete picture in an accepted format.
        """
        data = self.path.read_bytes()
        inspect_image(data)
        with decoding(image_format(data)):
            image = open_header(data)
            image.load()
            return Photo(self.name, to_rgb(ImageOps.exif_transpose(image)))


def photographs_of_folder(folder: Path) -> dict[CutoutSplit, list[PhotoFile]]:
    """All usable photographs below a folder, split by their content.

    The fifth with the lowest sha256 is for testing: the same files, the same split, whatever they are called.
    Files that cannot be used are named on stderr and counted; of identical ones the first is taken.

    Raises:
        ConfigurationError: No such folder, or too few usable photographs in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"--photos: there is no folder {folder}")
    found: dict[str, PhotoFile] = {}
    refused = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            digest = _usable(path)
            if digest in found:
                raise DecodeError(f"the same file as {found[digest].path}")
        except (OSError, ScoringError) as error:
            print(f"not used: {path}: {_reason(error)}", file=sys.stderr)
            refused += 1
            continue
        # Names of files repeat, and hold letters that a JSON file cannot.
        stem = re.sub(r"[^\w.-]+", "_", path.stem)[:_NAME_LETTERS]
        found[digest] = PhotoFile(f"{stem}-{digest[:_HASH_DIGITS]}", path)
    if refused:
        print(f"{refused} of {refused + len(found)} files in {folder} are not used", file=sys.stderr)
    if len(found) < FEWEST_PHOTOGRAPHS:
        raise ConfigurationError(
            f"--photos: {folder} has {len(found)} usable photographs; {FEWEST_PHOTOGRAPHS} are the fewest"
        )
    ordered = [found[digest] for digest in sorted(found)]
    tests = round(len(ordered) * _TEST_SHARE)
    return {"train": ordered[tests:], "test": ordered[:tests]}


def _usable(path: Path) -> str:
    """Decode the photograph once; returns the sha256 of its file."""
    picture = PhotoFile("", path).read().image
    if min(picture.size) < SMALLEST_SIDE_PX:
        raise DecodeError(
            f"{picture.width} × {picture.height} px is too small: {SMALLEST_SIDE_PX} px a side are needed"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(error: OSError | ScoringError) -> str:
    return error.message if isinstance(error, ScoringError) else error.strerror or str(error)
