"""The free photographs behind the demo: which they are, and how they and the cut-outs come to this computer.

``catalog.csv`` names each with licence, author, origin, size and perceptual hash, and fixes the splits **by
source photograph**: no photograph of ``test`` or ``demo`` is seen in training. The files themselves are not
ours to ship; they come from the Debian package ``gcompris-qt-data`` and two Python packages (ATTRIBUTION.md).
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy.fft import dctn

from schemas.errors import ConfigurationError
from training.demo.cutouts import cutout_catalogue
from training.demo.photo_files import PhotoFile

Split = Literal["train", "test", "demo"]

PACKAGE = "gcompris-qt-data"
_UNPACKED = "unpacked"
_HASH_SIDE = 8
_HASH_TOLERANCE_BITS = 6
"""Decoders differ in the last bit of a pixel, which moves a few bits of 64; another picture moves ~32."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """One line of the catalogue.

    Attributes:
        source: Where it comes from ("gcompris-qt-data:erase", "scikit-image").
        path: Path below the folder of unpacked files; for the Python packages only its name counts.
        width_px, height_px: Size of the file.
        licence, author, origin: Who made it, and what may be done with it.
        phash: Perceptual hash, 16 hex digits (DCT of the 32 × 32 luminance, bits above the median).
        split: ``train``, ``test``, ``demo``, or ``skip`` (near-duplicates, licence unknown).
    """

    source: str
    path: str
    width_px: int
    height_px: int
    licence: str
    author: str
    origin: str
    phash: str
    split: str

    @property
    def name(self) -> str:
        """File name without folder and extension."""
        return Path(self.path).stem

    @property
    def resource(self) -> str:
        """Name of the resource file in the Debian package ("erase")."""
        return self.source.partition(":")[2]


def catalogue(split: Split | None = None) -> tuple[Photograph, ...]:
    """The catalogue's photographs, of one split or all, in the catalogue's order."""
    text = resources.files("training.demo").joinpath("catalog.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text))
    photographs = (
        Photograph(
            source=row["source"],
            path=row["path"],
            width_px=int(row["width_px"]),
            height_px=int(row["height_px"]),
            licence=row["licence"],
            author=row["author"],
            origin=row["origin"],
            phash=row["phash"],
            split=row["split"],
        )
        for row in rows
    )
    return tuple(p for p in photographs if split is None or p.split == split)


def default_cache() -> Path:
    """Folder for fetched photographs: ``realqa-beam/photographs`` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "realqa-beam" / "photographs"


def fetch(cache: Path) -> Path:
    """Make sure that the Debian package's photographs and cut-outs lie in ``cache``; returns their folder.

    Does nothing where they lie there already. Otherwise unpacks what is missing from a
    ``gcompris-qt-data*.deb`` that lies in ``cache``, or downloads it first (44 MB, by ``apt-get download``;
    needs no root).

    Raises:
        ConfigurationError: The package cannot be fetched or unpacked; says how to do it by hand.
    """
    unpacked = cache / _UNPACKED
    needed = {p.path: p.resource for p in catalogue() if p.resource}
    needed |= {cutout.path: cutout.resource for cutout in cutout_catalogue()}
    missing = sorted({resource for path, resource in needed.items() if not (unpacked / path).exists()})
    if not missing:
        return unpacked
    cache.mkdir(parents=True, exist_ok=True)
    archives = sorted(cache.glob(f"{PACKAGE}*.deb"))
    if not archives:
        _command(["apt-get", "download", PACKAGE], cache)
        archives = sorted(cache.glob(f"{PACKAGE}*.deb"))
    _command(["dpkg", "-x", archives[-1].name, "package"], cache)
    # Imported here: reading photographs that are already unpacked needs no unpacker.
    from training.demo.rcc import unpack_rcc

    for resource in missing:
        path = cache / "package" / "usr" / "share" / "gcompris-qt" / "rcc" / f"{resource}.rcc"
        try:
            unpack_rcc(path, unpacked / resource)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: {error}. {_by_hand(cache)}") from error
    shutil.rmtree(cache / "package")
    return unpacked


def load(split: Split, cache: Path) -> list[tuple[Photograph, Image.Image]]:
    """Read the photographs of a split as RGB images, each checked against the catalogue.

    Raises:
        ConfigurationError: Photographs are missing or are other pictures than the catalogue's; names all.
    """
    return [(photograph, picture) for photograph, _, picture in _checked(split, cache)]


def catalogue_files(split: Split, cache: Path) -> list[PhotoFile]:
    """The photographs of a split as files, each checked as ``load`` does, none kept in memory."""
    # Two resources have a giraffe each, one in every split.
    return [
        PhotoFile(f"{photograph.resource or photograph.source}-{photograph.name}", path)
        for photograph, path, _ in _checked(split, cache)
    ]


def _checked(split: Split, cache: Path) -> Iterator[tuple[Photograph, Path, Image.Image]]:
    """Read the photographs of a split one by one; raises at the end for all that are wrong."""
    folder = fetch(cache) if split != "demo" else cache
    problems = []
    for photograph in catalogue(split):
        path = _python_package_file(photograph) if split == "demo" else folder / photograph.path
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except OSError as error:
            problems.append(f"{path}: {error}")
            continue
        problem = _difference(photograph, picture)
        if problem:
            problems.append(f"{path}: {problem}")
        yield photograph, path, picture
    if problems:
        raise ConfigurationError([*problems, _by_hand(cache)])


def perceptual_hash(picture: Image.Image) -> int:
    """64-bit perceptual hash: which of the 8 × 8 lowest DCT coefficients are above their median."""
    side = 4 * _HASH_SIDE
    grey = np.asarray(picture.convert("L").resize((side, side), Image.Resampling.LANCZOS), dtype=float)
    lowest = dctn(grey, type=2)[:_HASH_SIDE, :_HASH_SIDE]
    bits = (lowest > np.median(lowest)).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _difference(photograph: Photograph, picture: Image.Image) -> str | None:
    expected = (photograph.width_px, photograph.height_px)
    if picture.size != expected:
        return f"is {picture.size} px, the catalogue says {expected}"
    distance = (perceptual_hash(picture) ^ int(photograph.phash, 16)).bit_count()
    if distance > _HASH_TOLERANCE_BITS:
        return f"is another picture than the catalogue's ({distance} of 64 bits of the perceptual hash)"
    return None


def _python_package_file(photograph: Photograph) -> Path:
    """Where scikit-image or scikit-learn keeps the photograph."""
    module, folder = {
        "scikit-image": ("skimage", "data"),
        "scikit-learn": ("sklearn", "datasets/images"),
    }[photograph.source]
    try:
        root = resources.files(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{photograph.name} comes with {photograph.source}, which is not installed"
        ) from error
    return Path(str(root.joinpath(folder, Path(photograph.path).name)))


def _command(arguments: Sequence[str], folder: Path) -> None:
    try:
        subprocess.run(arguments, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{arguments[0]} is not on this computer. {_by_hand(folder)}") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip() or f"exit code {error.returncode}"
        raise ConfigurationError(f"{' '.join(arguments)}: {said}. {_by_hand(folder)}") from error


def _by_hand(cache: Path) -> str:
    return (
        f"By hand: put the Debian package {PACKAGE} (3.1-2, from https://packages.debian.org/{PACKAGE}) "
        f"into {cache}; where dpkg is missing too, unpack its usr/share/gcompris-qt/rcc/NAME.rcc with "
        f"training.demo.rcc.unpack_rcc into {cache / _UNPACKED}/NAME; or name another folder: --photos-cache"
    )
