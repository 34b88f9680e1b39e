"""``python -m training``: trains adapters; ``demo`` makes the model that ships with this package."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import ConfigurationError

_DEMO = """Train the small model that ships with this package, on two CPU cores in about 25 minutes:
tokeniser, base, stage 1 (attributes), stage 2 (score), evaluation on photographs that training never saw.
Labels are synthetic: they say what was done to a photograph, and nothing about human taste."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2: wrong configuration, every reason on stderr)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return _demo(options)
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
        help="where the free photographs are, or are to be put: 44 MB by apt-get download, no root needed "
        "(default: realqa-beam/photographs in your cache folder)",
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
    return parser


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
