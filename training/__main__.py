"""``python -m training``: from labelled images (``import``, ``validate``, ``label``) to adapters (``train``,
and ``demo`` for the model that ships here), what they are worth (``evaluate``, ``compare``, ``curves``,
``ladders``, ``probe``), and what they are turned into (``composite``, ``export``, ``wrap``).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.errors import ConfigurationError
from training.compare_command import add_compare
from training.composite_command import add_composite
from training.curves_command import add_curves
from training.data_commands import add_import, add_validate
from training.demo.commands import (
    CACHE_HELP,
    PHOTOS_HELP,
    add_demo_data,
    add_ladder_picture,
    add_ladders,
)
from training.evaluate_command import add_evaluate
from training.exchange_commands import add_export, add_probe, add_wrap
from training.run_command import add_label, add_train

_DEMO = """Train a small model like the one that ships with this package, on two CPU cores in under an hour:
pictures, tokeniser, eyes (the vision tower), base, stage 1 (attributes), stage 2 (score), evaluation on
photographs that training never saw.
Labels are synthetic: they say what was done to a photograph, and nothing about human taste."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2: wrong configuration, every reason on stderr)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        handler: Callable[[argparse.Namespace], int] = options.handler
        return handler(options)
    except ConfigurationError as error:
        for reason in error.reasons:
            print(f"error: {reason}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Labelled images in, adapters out."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a small model like the one that ships with this package, from scratch",
        description=_DEMO,
    )
    demo.set_defaults(handler=_demo)
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo_model"),
        metavar="DIR",
        help="where base/, stage1/, adapter/ and CARD.md go (default: %(default)s)",
    )
    demo.add_argument("--photos", type=Path, metavar="DIR", help=PHOTOS_HELP)
    demo.add_argument("--photos-cache", type=Path, metavar="DIR", help=CACHE_HELP)
    demo.add_argument(
        "--effort",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the full run's steps and pictures; 0.01 tries the whole chain in a few minutes and "
        "learns nothing (default: %(default)s)",
    )
    demo.add_argument(
        "--replace",
        action="store_true",
        help="replace the model that an earlier run left in the output folder",
    )
    demo.add_argument(
        "--validate",
        action="store_true",
        help="leave every 8th training photograph and every 5th training cut-out out of the training, and "
        "report on those instead of the test pictures: for choosing between recipes",
    )
    demo.add_argument(
        "--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)"
    )
    add_import(commands.add_parser)
    add_validate(commands.add_parser)
    add_train(commands.add_parser)
    add_curves(commands.add_parser)
    add_label(commands.add_parser)
    add_compare(commands.add_parser)
    add_demo_data(commands.add_parser)
    add_evaluate(commands.add_parser)
    add_composite(commands.add_parser)
    add_export(commands.add_parser)
    add_wrap(commands.add_parser)
    add_probe(commands.add_parser)
    add_ladders(commands.add_parser)
    add_ladder_picture(commands.add_parser)
    _add_photographs(commands.add_parser)
    return parser


def _add_photographs(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    photographs = add_parser(
        "photographs",
        help="write free photographs, and copies with one fault each, as JPEG files",
        description="Write the photographs of a split as JPEG files; by default the six demo photographs, "
        "which need no download, each with copies that have one fault: blurred, dark, bright, pale, garish, "
        "tilted, noisy, compressed.",
    )
    photographs.set_defaults(handler=_photographs)
    photographs.add_argument("folder", type=Path, metavar="DIR", help="where to; made if it is not there")
    photographs.add_argument(
        "--split", choices=("demo", "test", "train"), default="demo", help="which (default: %(default)s)"
    )
    photographs.add_argument("--plain", action="store_true", help="no degraded copies")
    photographs.add_argument("--photos-cache", type=Path, metavar="DIR", help=CACHE_HELP)


def _photographs(options: argparse.Namespace) -> int:
    if options.folder.exists() and not options.folder.is_dir():
        raise ConfigurationError(f"{options.folder} is no folder")
    from training.demo.gallery import write_gallery
    from training.demo.photographs import default_cache

    cache = options.photos_cache or default_cache()
    written = write_gallery(options.folder, options.split, cache, degraded=not options.plain)
    print(f"{len(written)} photographs in {options.folder}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    problems = []
    if not 0 < options.effort <= 10:
        problems.append(f"--effort: {options.effort} is not above 0 and at most 10")
    if options.threads < 1:
        problems.append(f"--threads: {options.threads} is not 1 or more")
    if options.output.exists() and not options.output.is_dir():
        problems.append(f"--output: {options.output} is no folder")
    if problems:
        raise ConfigurationError(problems)
    # Threads that spin while they wait halve the speed on a computer that does anything else. Read when torch
    # is imported, which is here: --help and a wrong option must not wait for it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from training.demo.run import DemoSettings, train_demo

    settings = DemoSettings(
        output=options.output,
        photos=options.photos,
        photos_cache=options.photos_cache,
        effort=options.effort,
        threads=options.threads,
        replace=options.replace,
        validate=options.validate,
    )
    print(train_demo(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
