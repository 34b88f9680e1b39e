"""LIVE In the Wild Image Quality Challenge (Ghadiyaram and Bovik, IEEE TIP 2016): scores from 0 to 100.

    Data/AllImages_release.mat    names of 1,169 images, (n, 1) cells
    Data/AllMOS_release.mat       their mean opinion scores, (1, n)
    Data/AllStdDev_release.mat    their standard deviations, (1, n)
    Images/                       1,162 images, and in trainingImages/ the first 7 (t1.bmp …)

Those seven taught the raters and are left out, as everyone does. There is no official split.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, annotated, existing, hash_split

_VARIABLES = ("AllImages_release", "AllMOS_release", "AllStdDev_release")
_TAUGHT = re.compile(r"t\d+\.", re.IGNORECASE)


@dataclass(frozen=True)
class _Entry:
    name: str
    mos: float
    std: float
    place: str


def read_live_challenge(folder: Path) -> PublicDataset:
    """Read the scores, 0–100, with their standard deviations."""
    data, images = existing(folder, ("Data", "."), "folder Data"), existing(folder, ("Images",), "folder")
    columns = [_variable(data / f"{variable}.mat", variable) for variable in _VARIABLES]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        counted = ", ".join(f"{name} {n}" for name, n in zip(_VARIABLES, lengths, strict=True))
        raise ConfigurationError(f"{data}: the files differ in length: {counted}")
    file = data / f"{_VARIABLES[0]}.mat"
    entries = [
        _Entry(str(name), float(mos), float(std), f"{file}, entry {number}")
        for number, (name, mos, std) in enumerate(zip(*columns, strict=True), 1)
    ]
    taught = [entry for entry in entries if _TAUGHT.match(entry.name)]

    def annotate(entry: _Entry) -> Annotation | None:
        if _TAUGHT.match(entry.name):
            return None
        return Annotation(
            image=str(images / entry.name), mos=entry.mos, mos_std=entry.std, split=hash_split(entry.name)
        )

    notes = (HASH_SPLIT_NOTE, f"{len(taught)} images that taught the raters are left out")
    return PublicDataset(annotated(entries, annotate), 0, 100, notes)


def _variable(file: Path, name: str) -> list[object]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        values = loadmat(file, variable_names=[name], squeeze_me=True).get(name)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from error
    except (MatReadError, ValueError, TypeError, NotImplementedError, zlib.error) as error:
        raise ConfigurationError(f"{file} is no MATLAB file that scipy reads: {error}") from error
    if values is None:
        raise ConfigurationError(f"{file}: there is no variable {name}")
    return [getattr(value, "item", lambda value=value: value)() for value in values.reshape(-1)]
