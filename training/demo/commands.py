"""Commands beside the demo run: its pictures as a data set, and how the shipped model sees severities."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL import Image

    from model.scorer import Scorer
    from schemas.annotations import Split as DataSplit
    from training.demo.photographs import Photograph

_EMBEDDED = "embedded"
_LADDERS = """Take photographs that training never saw, make each one worse in five steps, one degradation at
a time, and measure whether the model's score, the attribute that should notice, and BRISQUE put the copies in
order. Degradations are synthetic: this says nothing about human taste."""

_DEMO_DATA = """Write the pictures of the demo with their labels: a folder of images and annotations.jsonl.
By default exactly those that the run tests on: "evaluate ADAPTER DIR" then prints the tables of its
card. With --captions informative every other picture's context tells what was done to it, and how much: what
"train demo_context" learns from, and "evaluate ADAPTER DIR --context all" measures."""

CACHE_HELP = (
    "where the free photographs and cut-outs are, or are to be put: 44 MB by apt-get download, no root "
    "needed (default: realqa-beam/photographs in your cache folder)"
)
PHOTOS_HELP = (
    "any folder of photographs instead of the catalogue's; a fifth of them is for testing, by content "
    "(cut-outs stay the catalogue's)"
)


def add_ladders(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``ladders``."""
    ladders = add_parser(
        "ladders", help="measure whether a model ranks the severity of one degradation", description=_LADDERS
    )
    ladders.set_defaults(handler=_ladders)
    _add_common(ladders)
    ladders.add_argument(
        "--split",
        choices=("demo", "test", "train", "validation"),
        default="test",
        help="which (default: %(default)s)",
    )
    ladders.add_argument("--photos", type=Path, metavar="DIR", help=PHOTOS_HELP)
    ladders.add_argument(
        "--photographs",
        type=int,
        metavar="N",
        help="the first N of those that are large enough (default: all)",
    )
    ladders.add_argument("--json", type=Path, metavar="FILE", help="also write all figures as JSON")


def add_demo_data(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``demo-data``."""
    data = add_parser(
        "demo-data", help="write the demo's pictures and labels as a data set", description=_DEMO_DATA
    )
    data.set_defaults(handler=_demo_data)
    data.add_argument("folder", type=Path, metavar="DIR", help="where to; new or empty")
    data.add_argument(
        "--split",
        choices=("test", "train", "both", "validation"),
        default="test",
        help="which; validation is what demo --validate reports on: every 8th photograph and every 5th "
        "cut-out of those for training (default: %(default)s)",
    )
    data.add_argument(
        "--pictures", type=int, metavar="N", help="of every split asked for (default: as many as the run's)"
    )
    data.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the training pictures; those to test on take N + 1, those to validate on N + 2 (default: "
        "the run's)",
    )
    data.add_argument(
        "--captions",
        choices=("uninformative", "informative"),
        default="uninformative",
        help="what contexts say; pictures and labels are the same either way (default: %(default)s, as in "
        "the run)",
    )
    data.add_argument("--photos", type=Path, metavar="DIR", help=PHOTOS_HELP)
    data.add_argument("--photos-cache", type=Path, metavar="DIR", help=CACHE_HELP)


def add_ladder_picture(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``ladder-picture``."""
    picture = add_parser(
        "ladder-picture",
        help="draw one photograph at rising blur and darkness, with the model's answers",
        description="Draw one photograph at rising blur and at rising darkness, with the model's score and "
        "label under every copy, as a PNG file.",
    )
    picture.set_defaults(handler=_ladder_picture)
    picture.add_argument("file", type=Path, metavar="FILE.png", help="where to; replaced if it is there")
    picture.add_argument(
        "--photograph",
        default="coffee",
        metavar="NAME",
        help="of the catalogue; those of the demo split need no download (default: %(default)s)",
    )
    _add_common(picture)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        default=_EMBEDDED,
        metavar="DIR",
        help="directory of an adapter, or 'embedded', the model that ships here (default: %(default)s)",
    )
    parser.add_argument("--photos-cache", type=Path, metavar="DIR", help=CACHE_HELP)


def _ladders(options: argparse.Namespace) -> int:
    problems = []
    if options.photographs is not None and options.photographs < 2:
        problems.append(f"--photographs: {options.photographs} is not 2 or more")
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        problems.append(f"--json: {options.json} is no file in a folder that is there")
    if options.photos is not None and options.split == "demo":
        problems.append("--photos: a folder has no photographs of the demo split")
    if problems:
        raise ConfigurationError(problems)
    from training.demo.dataset import find_photographs
    from training.demo.ladder_report import FEWEST_FRAMES, climb_ladders, frame_size, frames_of
    from training.demo.photographs import catalogue_files, default_cache
    from training.text_files import replace_text

    cache = options.photos_cache or default_cache()
    if options.split == "demo":
        files = catalogue_files("demo", cache)
    else:
        files = find_photographs((options.split,), options.photos, cache)[options.split]
    scorer = _scorer(options.adapter)
    frames = frames_of(
        (file.read() for file in files),
        frame_size(scorer.manifest.image),
        fewest=options.photographs or FEWEST_FRAMES,
        most=options.photographs,
    )
    report = climb_ladders(scorer, frames)
    print(scorer.describe())
    print(f"split {options.split}, {len(files)} photographs; those that are large enough are used\n")
    print(report.to_markdown())
    if options.json is not None:
        replace_text(options.json, report.to_json())
    return 0


def _demo_data(options: argparse.Namespace) -> int:
    problems = []
    if options.pictures is not None and options.pictures < 1:
        problems.append(f"--pictures: {options.pictures} is not 1 or more")
    if options.seed is not None and options.seed < 0:
        problems.append(f"--seed: {options.seed} is not 0 or more")
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        problems.append(f"{options.folder} is no empty folder")
    if problems:
        raise ConfigurationError(problems)
    from training.config import shipped_config
    from training.demo.dataset import PICTURES, SEED, DataSettings, find_material, write_dataset
    from training.demo.photographs import default_cache

    splits: tuple[DataSplit, ...] = ("train", "test") if options.split == "both" else (options.split,)
    settings = DataSettings(
        {split: options.pictures or PICTURES[split] for split in splits},
        shipped_config("base").image,
        SEED if options.seed is None else options.seed,
        processes=os.cpu_count() or 1,
        captions=options.captions,
    )
    material = find_material(splits, options.photos, options.photos_cache or default_cache())
    made = write_dataset(options.folder, material, settings)
    print(f"{sum(len(found) for found in made.values())} pictures in {options.folder}")
    return 0


def _ladder_picture(options: argparse.Namespace) -> int:
    problems = []
    if options.file.suffix.lower() != ".png":
        problems.append(f"{options.file} does not end in .png")
    if not options.file.parent.is_dir():
        problems.append(f"{options.file.parent} is no folder")
    if problems:
        raise ConfigurationError(problems)
    from training.demo.ladder_picture import draw_picture
    from training.demo.ladder_report import frame_size
    from training.demo.ladders import frame

    photograph, image = _photograph(options.photograph, options.photos_cache)
    scorer = _scorer(options.adapter)
    size_px = frame_size(scorer.manifest.image)
    pixels = frame(image, size_px)
    if pixels is None:
        raise ConfigurationError(f"{photograph.name} is smaller than {size_px[0]} × {size_px[1]} px")
    model = "embedded model" if options.adapter == _EMBEDDED else scorer.provenance.adapter
    if scorer.manifest.training.synthetic:
        model += ": synthetic labels, not human taste"
    author = photograph.author or photograph.source.partition(":")[0]
    caption = f"{model}. Photograph: {photograph.name} ({author}, {photograph.licence})"
    draw_picture(pixels, scorer.score, caption).save(options.file, "PNG", optimize=True)
    print(f"{options.file}: {options.file.stat().st_size / 1e3:.0f} kB")
    return 0


def _photograph(name: str, cache: Path | None) -> tuple[Photograph, Image.Image]:
    from training.demo.photographs import Split, catalogue, default_cache, load

    known = [(split, found) for split in get_args(Split) for found in catalogue(split) if found.name == name]
    if not known:
        free = ", ".join(photograph.name for photograph in catalogue("demo"))
        raise ConfigurationError(f"--photograph: {name!r} is not in the catalogue; without download: {free}")
    if len(known) > 1:
        paths = ", ".join(photograph.path for _, photograph in known)
        raise ConfigurationError(f"--photograph: {name!r} may be any of {paths}")
    split, photograph = known[0]
    return next(pair for pair in load(split, cache or default_cache()) if pair[0] == photograph)


def _scorer(adapter: str) -> Scorer:
    from model.scorer import Scorer

    return Scorer.load(None if adapter == _EMBEDDED else adapter)
