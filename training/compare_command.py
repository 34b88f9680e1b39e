"""The command ``compare``: variants of a configuration, trained and evaluated on the same split."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from schemas.errors import ConfigurationError

_COMPARE = """Train and evaluate the variants of a comparison on the same data, and print a table: SRCC, PLCC
and RMSE with bootstrap intervals over sources, paired differences to the first variant, calibration, and
images a second. COMPARISON is a YAML file, or the name of one that ships here:

  heads          every score head of the field, asked for the score alone
  digits         RealQA's Table 4: how many digits a score is written with
  regression     RealQA's section 4.6: the next token against regression, with and without attributes first
  bins           RvTC: numbers of bins, hard and soft, against words
  granularity    RealQA's Table 2: which questions stage 1 is trained on, and the order of levels

A comparison that was killed goes on when the same command is given again.
Exit code 0, or 2 for a wrong configuration or wrong data, with all reasons."""


def add_compare(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``compare``."""
    compare = add_parser(
        "compare",
        help="train and evaluate variants on the same split, with intervals: score heads, digits, bins, ...",
        description=_COMPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.set_defaults(handler=_compare)
    compare.add_argument("comparison", metavar="COMPARISON", help="YAML file, or the name of one here")
    compare.add_argument(
        "data",
        type=Path,
        nargs="+",
        metavar="DATA",
        help="folders with annotations and images, or such files",
    )
    compare.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where adapters, predictions and table go"
    )
    compare.add_argument(
        "--start",
        metavar="CONFIG",
        help="configuration that all variants start from, such as demo_direct for the small model (default: "
        "as the comparison says)",
    )
    compare.add_argument(
        "--base-model",
        default="embedded",
        metavar="NAME",
        help="name or path of the base model (default: the small one that ships here)",
    )
    compare.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="runs a variant (default: %(default)s)"
    )
    compare.add_argument(
        "--only", nargs="+", metavar="VARIANT", help="these variants alone, the first to compare with"
    )
    compare.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="the part that figures are of (default: %(default)s)",
    )
    compare.add_argument(
        "--synthetic", action="store_true", help="labels are synthetic: the table will say so"
    )
    compare.add_argument("--device", choices=("auto", "cpu"), default="auto", help="(default: %(default)s)")


def _compare(options: argparse.Namespace) -> int:
    from training.comparison import read_comparison

    comparison = read_comparison(options.comparison)
    problems = [f"DATA: there is no {data}" for data in options.data if not data.exists()]
    if options.seeds < 1:
        problems.append("--seeds: at least 1")
    if options.only:
        known = comparison.variants
        problems += [
            f"--only: there is no {name!r}; there are {', '.join(known)}"
            for name in options.only
            if name not in known
        ]
        chosen = {name: known[name] for name in options.only if name in known}
        comparison = comparison.model_copy(update={"variants": chosen})
    if problems:
        raise ConfigurationError(problems)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is here
    from training.compare_run import TABLE_NAME, CompareSettings, run_comparison
    from training.comparison_table import comparison_table
    from training.text_files import replace_text

    compared = run_comparison(
        CompareSettings(
            comparison=comparison,
            data=options.data,
            output=options.output,
            start=options.start,
            base_model=options.base_model,
            seeds=options.seeds,
            split=options.split,
            synthetic=options.synthetic,
            device=options.device,
        )
    )
    table = comparison_table(compared)
    replace_text(options.output / TABLE_NAME, table)
    print(table, end="")
    return 0
