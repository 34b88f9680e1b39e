"""The command ``curves``: how training runs went, as one picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from schemas.errors import ConfigurationError

_CURVES = """Draw how training runs went, beside each other: loss, NCM, NCM* in both readings, and what
validation measured, over optimiser steps. NCM is the mean squared error of a score's expected digits under
teacher forcing; NCM* leaves the true digit out, and is drawn as printed (what is left vanishes as the model
gets surer) and renormalised (what is left adds up to 1 again).

  python -m training train initialised DATA --output runs/initialised
  python -m training train scratch DATA --output runs/scratch
  python -m training curves runs/initialised runs/scratch --output curves.svg

Exit code 0, or 2 for runs that cannot be read, all of them named."""


def add_curves(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``curves``."""
    curves = add_parser(
        "curves",
        help="draw how training runs went: loss, NCM, NCM*, validation",
        description=_CURVES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    curves.set_defaults(handler=_curves)
    curves.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folders that the command train wrote, or the training.json in them",
    )
    curves.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the picture, ending in .svg"
    )


def _curves(options: argparse.Namespace) -> int:
    file, problems = options.output, []
    if file.suffix != ".svg":
        problems.append(f"--output: {file} does not end in .svg")
    if file.is_dir() or not file.parent.is_dir():
        problems.append(f"--output: {file} is no file in a folder that is there")
    problems += [f"RUN: there is no {run}" for run in options.runs if not run.exists()]
    if problems:
        raise ConfigurationError(problems)
    from training.curves import read_runs
    from training.curves_picture import curves_svg
    from training.text_files import replace_text

    replace_text(file, curves_svg(read_runs(options.runs)))
    print(f"curves in {file}")
    return 0
