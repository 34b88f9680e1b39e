"""``python -m training``: from labelled images (``import``, ``validate``, ``label``) to adapters (``train``,
and ``demo`` for the model that ships here), what they are worth (``evaluate``, ``ladders``, ``probe``), and
what they are turned into (``composite``, ``export``, ``wrap``).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.errors import ConfigurationError
from training.composite_command import add_composite
from training.data_commands import add_import, add_validate
from training.demo.commands import (
    CACHE_HELP,
    PHOTOS_HELP,
    add_demo_data,
    add_ladder_picture,
    add_ladders,
)
from training.exchange_commands import add_export, add_probe, add_wrap
from training.run_command import add_label, add_train

_DEMO = """Train a small model like the one that ships with this package, on two CPU cores in under an hour:
pictures, tokeniser, eyes (the vision tower), base, stage 1 (attributes), stage 2 (score), evaluation on
photographs that training never saw.
Labels are synthetic: they say what was done to a photograph, and nothing about human taste."""

_EVALUATE = """Score the images of a labelled data set exactly as serving does, and print, with 95 % intervals
that draw sources and not images:

  SRCC, PLCC and RMSE of the score and every attribute, by decided and by expected value
  accuracy of the labels beside saying the most frequent one always; calibration of their confidences
  the score's PLCC also after VQEG's 4-parameter logistic, labelled as such
  SRCC of every predicted attribute, and of the composite score, with mos
  how many true scores lie within one and two score_std
  the score read in three ways (digit_tree, per_position, greedy) from the one decode

annotations.jsonl holds one JSON object a line: image, mos, the attributes by name, context, source, split.
Several DATA make one table with a row each, then the figures of each.
Exit code 0, or 2 for a wrong configuration or images that cannot be read, all of them named."""


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
    add_label(commands.add_parser)
    add_demo_data(commands.add_parser)
    _add_evaluate(commands.add_parser)
    add_composite(commands.add_parser)
    add_export(commands.add_parser)
    add_wrap(commands.add_parser)
    add_probe(commands.add_parser)
    add_ladders(commands.add_parser)
    add_ladder_picture(commands.add_parser)
    _add_photographs(commands.add_parser)
    return parser


def _add_evaluate(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    evaluate = add_parser(
        "evaluate",
        help="measure an adapter on labelled images: agreement, calibration, ways to read the score",
        description=_EVALUATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.set_defaults(handler=_evaluate)
    evaluate.add_argument(
        "adapter",
        metavar="ADAPTER",
        help="directory of the adapter, or the word embedded: the small model that ships here",
    )
    evaluate.add_argument(
        "data",
        type=Path,
        nargs="+",
        metavar="DATA",
        help="folders with annotations.jsonl and images, or such files",
    )
    evaluate.add_argument(
        "--base-model", metavar="NAME", help="name or path of the base model (default: as the adapter says)"
    )
    evaluate.add_argument("--template", metavar="NAME", help="answer template (default: the adapter's)")
    evaluate.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="part of the data (default: %(default)s)",
    )
    evaluate.add_argument(
        "--mos-range",
        nargs=2,
        type=float,
        action="append",
        default=[],
        metavar=("LOW", "HIGH"),
        help="range of the data's mos; maps to 0–10, where RMSE and coverage are measured; once for all "
        "DATA, or once for each (default: as dataset.json beside the annotations says, else the adapter's "
        "native range)",
    )
    evaluate.add_argument(
        "--without-context", action="store_true", help="do not show the model the images' contexts"
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N images of the split")
    evaluate.add_argument(
        "--allow-failures",
        action="store_true",
        help="leave out images that cannot be read, and count them, instead of stopping",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    evaluate.add_argument(
        "--html", type=Path, metavar="FILE", help="also write tables and plots as one page that needs no net"
    )
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")


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


def _evaluate(options: argparse.Namespace) -> int:
    problems = []
    if options.limit is not None and options.limit < 1:
        problems.append(f"--limit: {options.limit} is not 1 or more")
    if any(not low < high for low, high in options.mos_range):
        problems.append("--mos-range: LOW is not below HIGH")
    if len(options.mos_range) not in (0, 1, len(options.data)):
        problems.append(
            f"--mos-range: given {len(options.mos_range)} times for {len(options.data)} data sets; give it "
            "once for all, or once for each"
        )
    for name, file in (("--json", options.json), ("--html", options.html)):
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            problems.append(f"{name}: {file} is no file in a folder that is there")
    if problems:
        raise ConfigurationError(problems)
    from model.backbone import EMBEDDED, EMBEDDED_ADAPTER
    from training.evaluation_html import evaluation_page
    from training.evaluation_report import reports_json, reports_markdown
    from training.evaluation_run import EvaluationSettings, run_evaluations
    from training.text_files import replace_text

    settings = EvaluationSettings(
        adapter=EMBEDDED_ADAPTER if options.adapter == EMBEDDED else Path(options.adapter),
        data=tuple(options.data),
        base_model=options.base_model,
        template=options.template,
        split=options.split,
        mos_ranges=tuple((low, high) for low, high in options.mos_range),
        with_context=not options.without_context,
        limit=options.limit,
        device=options.device,
        allow_failures=options.allow_failures,
    )
    reports = run_evaluations(settings)
    if options.json is not None:
        replace_text(options.json, reports_json(reports))
    if options.html is not None:
        replace_text(options.html, evaluation_page(reports))
    print(reports_markdown(reports))
    return 0


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
