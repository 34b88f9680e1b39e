"""``python -m tests.benchmarks``: what is promised about speed, measured on this machine.

Ratios are of things measured in one run, in turns, warm; medians are given. Inputs are photographs or noise,
never zeros.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

# Torch and Beam are imported by what needs them: --help and option errors answer at once.

_SHAPES = ("tiny", "toy", "2b", "7b")
_DTYPES = ("float32", "bfloat16", "float16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; prints its table, and writes the figures with ``--json FILE``.

    Returns:
        0, or 1 where a part of what was to be measured failed.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.command == "table":
            return _table(options.files)
        figures = options.measure(options)
    except ConfigurationError as error:
        parser.error("; ".join(error.reasons))
    return _report(options, figures)


def _report(options: argparse.Namespace, figures: Mapping[str, Any]) -> int:
    from tests.benchmarks.machine import envelope
    from tests.benchmarks.tables import markdown

    left_out = ("command", "measure", "json", "photos", "adapter")  # where files lie is nobody's business
    settings = {name: value for name, value in vars(options).items() if name not in left_out}
    report = envelope(options.command, figures, settings)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(markdown(report))
    return 1 if figures.get("failed") else 0


def _table(files: Sequence[Path]) -> int:
    from tests.benchmarks.tables import markdown

    for file in files:
        print(markdown(json.loads(file.read_text())))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_scorer(_command(commands, "scorer", _scorer, "images a second of the scorer, and where time goes"))
    _add_paths(_command(commands, "paths", _paths, "what every optimisation gives"))
    _add_preprocessing(
        _command(commands, "preprocessing", _preprocessing, "JPEG bytes to patches, on one core")
    )
    _add_pipeline(_command(commands, "pipeline", _pipeline, "through Beam, against the bare scorer"))
    _add_training(_command(commands, "training", _training, "a stage-1 step, against a plain Trainer's"))
    _add_scale(_command(commands, "scale", _scale, "the pipeline's own cost per image, and its memory"))
    _add_output(_command(commands, "output", _output, "reading many scores: summary, skipped keys, compact"))
    _add_spread(_command(commands, "spread", _spread, "how far a score moves with its micro-batch"))
    _add_startup(_command(commands, "startup", _startup, "--help, option errors, first rows of a job"))
    table = commands.add_parser("table", help="print figures files as markdown tables")
    table.add_argument("files", nargs="+", type=Path, metavar="FILE", help="written with --json")
    return parser


def _command(
    commands: Any, name: str, measure: Callable[[argparse.Namespace], Mapping[str, Any]], says: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=says, description=says.capitalize() + ".")
    made.set_defaults(measure=measure)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return made


def _add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder of photographs (default: six small ones of two wheels)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", choices=_SHAPES, default="tiny",
        help="tiny: the embedded model; 2b, 7b: Qwen2-VL's shapes, random weights (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda, but cpu for tiny and toy)")
    parser.add_argument(
        "--dtype", choices=_DTYPES,
        help="(default: float32 on cpu, bfloat16 on cuda)",
    )  # fmt: skip


def _add_scorer(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_photos(parser)
    parser.add_argument("--visual-tokens", type=int, nargs="+", default=[256, 480, 640, 1280], metavar="N")
    parser.add_argument(
        "--templates", nargs="+", default=[None], metavar="NAME", help="(default: the adapter's own)"
    )
    parser.add_argument("--megapixels", type=float, default=2.0, help="of the JPEGs (default: %(default)s)")
    parser.add_argument("--micro-batches", type=int, default=4, help="of a run (default: %(default)s)")
    parser.add_argument("--micro-batch-images", type=int, default=64, help="at most (default: %(default)s)")
    parser.add_argument("--token-budget", type=int, help="of a micro-batch (default: as suits the device)")
    parser.add_argument("--threads", type=int, help="that decode (default: as in the pipeline)")
    parser.add_argument("--runs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--against-generate", action="store_true", help="transformers' generate() beside it")
    parser.add_argument("--generate-batches", type=int, nargs="+", default=[8, 32], metavar="N")
    parser.add_argument("--generate-images", type=int, default=32, help="of a run (default: %(default)s)")
    parser.add_argument(
        "--against-reference", action="store_true", help="scores beside those of transformers' own model"
    )
    parser.add_argument(
        "--reference-images", type=int, default=32, metavar="N",
        help="different photographs to compare them on (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--reference-dtype", choices=_DTYPES, help="of the reference (default: as --dtype)")


def _scorer(options: argparse.Namespace) -> Mapping[str, Any]:
    import torch

    device, dtype = _placed(options)
    from tests.benchmarks.scorer_speed import ScorerPlan, measure_scorer

    plan = ScorerPlan(
        shape=options.shape,
        device=device,
        dtype=dtype,
        visual_tokens=options.visual_tokens,
        templates=options.templates,
        photos=options.photos,
        megapixels=options.megapixels,
        micro_batches=options.micro_batches,
        runs=options.runs,
        micro_batch_images=options.micro_batch_images,
        token_budget=options.token_budget,
        threads=options.threads,
        generate_batches=options.generate_batches if options.against_generate else (),
        generate_images=options.generate_images,
        reference_images=options.reference_images if options.against_reference else 0,
        reference_dtype=getattr(torch, options.reference_dtype) if options.reference_dtype else None,
    )
    return measure_scorer(plan, tell=_tell)


def _add_paths(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_photos(parser)
    parser.add_argument("--visual-tokens", type=int, default=256, help="of an image (default: %(default)s)")
    parser.add_argument("--photographs", type=int, default=6, help="different ones (default: %(default)s)")
    parser.add_argument("--megapixels", type=float, default=12.0, help="of the JPEGs (default: %(default)s)")
    parser.add_argument("--micro-batch-images", type=int, default=64, help="at most (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="(default: %(default)s)")


def _paths(options: argparse.Namespace) -> Mapping[str, Any]:
    device, dtype = _placed(options)
    from tests.benchmarks.paths import PathsPlan, measure_paths

    plan = PathsPlan(
        shape=options.shape,
        device=device,
        dtype=dtype,
        visual_tokens=options.visual_tokens,
        photos=options.photos,
        photographs=options.photographs,
        megapixels=options.megapixels,
        micro_batch_images=options.micro_batch_images,
        runs=options.runs,
    )
    return measure_paths(plan, tell=_tell)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _placed(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Device and number format that the options ask for. Raises ``ConfigurationError``."""
    import torch

    name = options.device or ("cpu" if options.shape in ("tiny", "toy") else "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("there is no CUDA device here")
    return torch.device(name), getattr(torch, options.dtype or ("float32" if name == "cpu" else "bfloat16"))


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    _add_photos(parser)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[2.0, 5.0, 12.0], metavar="MP")
    parser.add_argument("--visual-tokens", type=int, nargs="+", default=[256, 640], metavar="N")
    parser.add_argument("--images", type=int, default=8, help="different ones (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="(default: %(default)s)")


def _preprocessing(options: argparse.Namespace) -> Mapping[str, Any]:
    from tests.benchmarks.preprocessing import measure_preprocessing

    return measure_preprocessing(
        options.megapixels, options.visual_tokens, options.photos, options.images, options.runs
    )


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    _add_photos(parser)
    parser.add_argument("--adapter", help="adapter to measure (default: the embedded one)")
    parser.add_argument("--images", type=int, default=1024, help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="of the pipeline (default: %(default)s)")


def _pipeline(options: argparse.Namespace) -> Mapping[str, Any]:
    from tests.benchmarks.through_beam import measure_pipeline

    return measure_pipeline(options.photos, options.adapter, options.images, options.runs)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=_SHAPES[1:], default="toy", help="(default: %(default)s)")
    parser.add_argument("--visual-tokens", type=int, default=512, help="per image (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda, but cpu for the toy)")
    parser.add_argument("--batch-size", type=int, default=4, help="per step (default: %(default)s)")
    parser.add_argument("--micro-batch-size", type=int, help="held at a time (default: as stage1 says)")
    parser.add_argument("--steps", type=int, default=3, help="timed ones of a run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="of each loop (default: %(default)s)")


def _training(options: argparse.Namespace) -> Mapping[str, Any]:
    import torch

    device = options.device or ("cpu" if options.shape == "toy" else "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("there is no CUDA device here")
    from tests.benchmarks.training_step import measure, training_config

    return measure(
        options.shape,
        training_config(options.batch_size, options.micro_batch_size),
        options.visual_tokens,
        torch.device(device),
        steps=options.steps,
        runs=options.runs,
    )


def _add_scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N")
    parser.add_argument("--chunk-size", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--profile",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="further jobs, over N images each, under a profiler, which also counts calls",
    )


def _scale(options: argparse.Namespace) -> Mapping[str, Any]:
    from tests.benchmarks.scale import measure_scale

    return measure_scale(options.images, options.chunk_size, options.runs, options.profile)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=2_000_000, help="(default: %(default)s)")
    parser.add_argument("--files", type=int, default=8000, help="that hold them (default: %(default)s)")


def _output(options: argparse.Namespace) -> Mapping[str, Any]:
    from tests.benchmarks.large_output import measure_output

    return measure_output(options.rows, options.files)


def _add_spread(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_photos(parser)
    parser.add_argument("--visual-tokens", type=int, default=256, help="at most (default: %(default)s)")
    parser.add_argument("--images", type=int, default=6, help="photographs (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64], metavar="N",
        help="sizes of mixed micro-batches",
    )  # fmt: skip


def _spread(options: argparse.Namespace) -> Mapping[str, Any]:
    device, dtype = _placed(options)
    from tests.benchmarks.spread import measure_spread

    return measure_spread(
        options.shape, device, dtype, options.visual_tokens, options.photos, options.images, options.batches
    )


def _add_startup(parser: argparse.ArgumentParser) -> None:
    _add_photos(parser)
    parser.add_argument("--images", type=int, default=512, help="of the job (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="(default: %(default)s)")


def _startup(options: argparse.Namespace) -> Mapping[str, Any]:
    from tests.benchmarks.startup import measure_startup

    return measure_startup(options.images, options.runs, options.photos)


if __name__ == "__main__":
    sys.exit(main())
