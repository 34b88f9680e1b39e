"""Commands that look at the shipped model: how it ranks severities, and the picture of it in the README."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL import Image

    from model.scorer import Scorer
    from schemas.manifest import ImageRule
    from training.demo.ladders import Climb, Frame
    from training.demo.photographs import Photograph

_EMBEDDED = "embedded"
_SEED = 0
_ASPECT = (3_000, 4_000)
"""Height and width: the frame is what the model sees of a 4:3 picture of any large size."""

_LADDERS = """Take photographs that training never saw, make each one worse in six steps, one degradation at a
time, and measure whether the model's score, the attribute that should notice, and BRISQUE put the steps in
order. Degradations are synthetic: this says nothing about human taste."""

_HOW_TO_READ = """SRCC, + = worse pictures get lower marks: pooled over all photographs [95 % interval by
bootstrap over them] / mean within a photograph. score − BRISQUE: pooled, over the same draws; BRISQUE sees no
colour and was trained on human opinions of blur, noise and compression. The degradations are synthetic:
ranking them is not human taste. –: no such attribute, or a picture without an answer."""


def add_ladders(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``ladders``."""
    ladders = add_parser(
        "ladders", help="measure whether a model ranks the severity of one degradation", description=_LADDERS
    )
    ladders.set_defaults(handler=_ladders)
    _add_common(ladders)
    ladders.add_argument(
        "--split", choices=("demo", "test", "train"), default="test", help="which (default: %(default)s)"
    )
    ladders.add_argument(
        "--photographs",
        type=int,
        metavar="N",
        help="the first N of those that are large enough (default: all)",
    )
    ladders.add_argument("--json", type=Path, metavar="FILE", help="also write all figures as JSON")


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
    parser.add_argument(
        "--photos-cache",
        type=Path,
        metavar="DIR",
        help="where the free photographs are, or are to be put "
        "(default: realqa-beam/photographs in your cache folder)",
    )


def _ladders(options: argparse.Namespace) -> int:
    problems = []
    if options.photographs is not None and options.photographs < 2:
        problems.append(f"--photographs: {options.photographs} is not 2 or more")
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        problems.append(f"--json: {options.json} is no file in a folder that is there")
    if problems:
        raise ConfigurationError(problems)
    from training.demo.judges import BRISQUE_MISSING, load_brisque
    from training.demo.ladders import LADDERS, climb, table
    from training.text_files import replace_text

    scorer = _scorer(options.adapter)
    size_px = _frame_size(scorer.manifest.image)
    frames, in_split = _frames(options, size_px)
    brisque = load_brisque()
    climbs = []
    for ladder in LADDERS:
        climbs.append(climb(ladder, frames, scorer.score, brisque, _SEED))
        logging.info("%s: %d of %d", ladder.name, len(climbs), len(LADDERS))
    print(scorer.describe())
    print(
        f"{len(frames)} of the {in_split} photographs of the split {options.split}, each at "
        f"{size_px[0]} × {size_px[1]} px\n"
    )
    print(table(climbs, None if brisque else BRISQUE_MISSING))
    print(f"\n{_HOW_TO_READ}")
    if options.json is not None:
        facts = {
            **asdict(scorer.provenance),
            "synthetic": scorer.manifest.training.synthetic,
            "split": options.split,
            "photographs": [found.photograph for found in frames],
            "size_px": size_px,
            "seed": _SEED,
            "ladders": [_plain(found) for found in climbs],
        }
        replace_text(options.json, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return 0


def _plain(found: Climb) -> dict[str, Any]:
    """A climb without the ladder's function."""
    fields = ("name", "unit", "family", "severities")
    ladder = {name: getattr(found.ladder, name) for name in fields}
    judges = ("score", "attribute", "brisque", "lead")
    figures = {name: getattr(found, name) for name in judges}
    return {
        **ladder,
        "attribute_name": found.ladder.attribute,
        **{name: None if figure is None else asdict(figure) for name, figure in figures.items()},
    }


def _frames(options: argparse.Namespace, size_px: tuple[int, int]) -> tuple[list[Frame], int]:
    """The photographs asked for, cut to the frame, and how many there are in the split."""
    from training.demo.ladders import Frame, frame
    from training.demo.photographs import default_cache, load

    found = load(options.split, options.photos_cache or default_cache())
    framed = [(photograph, frame(image, size_px)) for photograph, image in found]
    frames = [Frame(photograph.name, pixels) for photograph, pixels in framed if pixels is not None]
    wanted = options.photographs or max(len(frames), 2)
    if len(frames) < wanted:
        raise ConfigurationError(
            f"--photographs: {wanted} are wanted, but {len(frames)} of the {len(found)} of the split "
            f"{options.split} have {size_px[0]} × {size_px[1]} px or more"
        )
    return frames[:wanted], len(found)


def _ladder_picture(options: argparse.Namespace) -> int:
    problems = []
    if options.file.suffix.lower() != ".png":
        problems.append(f"{options.file} does not end in .png")
    if not options.file.parent.is_dir():
        problems.append(f"{options.file.parent} is no folder")
    if problems:
        raise ConfigurationError(problems)
    from training.demo.ladder_picture import draw_picture
    from training.demo.ladders import frame

    photograph, image = _photograph(options.photograph, options.photos_cache)
    scorer = _scorer(options.adapter)
    size_px = _frame_size(scorer.manifest.image)
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


def _frame_size(rule: ImageRule) -> tuple[int, int]:
    """Width and height at which the model sees a 4:3 picture."""
    from model.images import resized_size

    height, width = resized_size(*_ASPECT, rule)
    return width, height
