"""The command ``composite``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from schemas.errors import ConfigurationError

_COMPOSITE = """Weigh the attributes that an adapter predicts so that their sum follows people's feedback
(partial least squares), and write a copy of the adapter with these weights: the pipeline then fills column
composite_score, on the scale of the feedback, also for a stage-1 adapter that gives no score.

The number of components is found by cross-validation that keeps all images of a source on one side: the
fewest within one standard error of the highest SRCC. Prints SRCC, PLCC and RMSE for every number, the best
single attribute, and the weights. Images without the feedback are left out and counted. An image without
attributes stops the command, unless --allow-failures counts it too.

Exit code 0, or 2 for a wrong configuration; then nothing is written."""


def add_composite(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``composite``."""
    composite = add_parser(
        "composite",
        help="weigh an adapter's attributes into one score that follows people's feedback",
        description=_COMPOSITE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    composite.set_defaults(handler=_composite)
    composite.add_argument(
        "adapter",
        metavar="ADAPTER",
        help="directory of the adapter, or the word embedded: the small model that ships here",
    )
    composite.add_argument(
        "data", type=Path, metavar="DATA", help="folder with annotations.jsonl and images, or such a file"
    )
    composite.add_argument(
        "output", type=Path, metavar="OUTPUT", help="where the adapter with weights goes; new or empty"
    )
    composite.add_argument(
        "--feedback",
        choices=("mos", "composition", "eye_catching"),
        default="mos",
        help="label that people gave (default: %(default)s)",
    )
    composite.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="take the attributes from this Parquet file of scores, or this output folder of a pipeline run "
        "with the adapter, instead of scoring DATA; images are found again by their path",
    )
    composite.add_argument(
        "--base-model", metavar="NAME", help="name or path of the base model (default: as the adapter says)"
    )
    composite.add_argument("--template", metavar="NAME", help="answer template (default: the adapter's)")
    composite.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="train",
        help="part of the data (default: %(default)s)",
    )
    composite.add_argument(
        "--max-components", type=int, default=5, metavar="N", help="try up to N (default: %(default)s)"
    )
    composite.add_argument(
        "--folds", type=int, default=5, metavar="N", help="of the cross-validation (default: %(default)s)"
    )
    composite.add_argument(
        "--allow-failures",
        action="store_true",
        help="leave out images without attributes, and count them, instead of stopping",
    )
    composite.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )


def _composite(options: argparse.Namespace) -> int:
    problems = []
    if options.max_components < 1:
        problems.append(f"--max-components: {options.max_components} is not 1 or more")
    if options.folds < 2:
        problems.append(f"--folds: {options.folds} is not 2 or more")
    if problems:
        raise ConfigurationError(problems)
    from model.backbone import EMBEDDED, EMBEDDED_ADAPTER
    from training.composite_run import CompositeSettings, run_composite
    from training.composite_tables import composite_text

    settings = CompositeSettings(
        adapter=EMBEDDED_ADAPTER if options.adapter == EMBEDDED else Path(options.adapter),
        data=options.data,
        output=options.output,
        feedback=options.feedback,
        predictions=options.predictions,
        base_model=options.base_model,
        template=options.template,
        split=options.split,
        max_components=options.max_components,
        folds=options.folds,
        device=options.device,
        allow_failures=options.allow_failures,
    )
    print(composite_text(run_composite(settings)))
    print(f"\nwritten to {options.output}")
    return 0
