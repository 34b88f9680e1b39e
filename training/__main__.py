"""``python -m training``: ``demo`` trains the model that ships here; ``photographs`` writes free pictures."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.errors import ConfigurationError

_DEMO = """Train the small model that ships with this package, on two CPU cores in about 25 minutes:
tokeniser, base, stage 1 (attributes), stage 2 (score), evaluation on photographs that training never saw.
Labels are synthetic: they say what was done to a photograph, and nothing about human taste."""

_CACHE_HELP = (
    "where the free photographs are, or are to be put: 44 MB by apt-get download, no root needed "
    "(default: realqa-beam/photographs in your cache folder)"
)


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
        help="train the small model that ships with this package, from scratch",
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
    demo.add_argument(
        "--photos-cache",
        type=Path,
        metavar="DIR",
        help=_CACHE_HELP,
    )
    demo.add_argument(
        "--effort",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the full run's steps and pictures; 0.02 tries the whole chain in a minute and learns "
        "nothing (default: %(default)s)",
    )
    demo.add_argument(
        "--replace",
        action="store_true",
        help="replace the model that an earlier run left in the output folder",
    )
    demo.add_argument(
        "--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)"
    )
    _add_photographs(commands.add_parser)
    return parser


def _add_photographs(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    photographs = add_parser(
        "photographs",
        help="write free photographs, and copies with one fault each, as JPEG files",
        description="Write the photographs of a split as JPEG files; by default the six demo photographs, "
        "which need no download, with a blurred, dark, bright, pale, garish and tilted copy of each.",
    )
    photographs.set_defaults(handler=_photographs)
    photographs.add_argument("folder", type=Path, metavar="DIR", help="where to; made if it is not there")
    photographs.add_argument(
        "--split", choices=("demo", "test", "train"), default="demo", help="which (default: %(default)s)"
    )
    photographs.add_argument("--plain", action="store_true", help="no degraded copies")
    photographs.add_argument("--photos-cache", type=Path, metavar="DIR", help=_CACHE_HELP)


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
        options.output, options.photos_cache, options.effort, options.threads, options.replace
    )
    print(train_demo(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
