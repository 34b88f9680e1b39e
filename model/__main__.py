"""``python -m model PHOTO...`` (also ``realqa-score``): a readable answer for one photograph, or many."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from schemas.attributes import Vocabulary
from schemas.errors import ConfigurationError, ScoringError
from schemas.records import Prediction

if TYPE_CHECKING:
    from model.scorer import Scorer

_BAR = 24


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="realqa-score",
        description="Score photographs: ten attributes and a quality and aesthetics score in [0, 10), "
        "higher is better. Exit code 0 if every photograph was scored, 1 if some was not, 2 for a "
        "wrong configuration.",
    )
    parser.add_argument("photographs", nargs="+", metavar="PHOTO", help="files to score")
    parser.add_argument("--adapter", help="directory of an adapter (default: the small embedded model)")
    parser.add_argument("--base-model", help="name or path of the base model (default: as the adapter says)")
    parser.add_argument("--template", help="answer template (default: the adapter's)")
    parser.add_argument("--context", help="text about the photograph, for adapters that take one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: what suits the device)")
    parser.add_argument(
        "--fp8", action="store_true", help="8-bit floats in the language model, on GPUs that have them"
    )
    parser.add_argument(
        "--fp8-check",
        action="store_true",
        help="instead of scores: what 8-bit floats do to them. Scores the photographs in both formats; exit "
        "code 0 if they rank alike (Spearman's correlation 0.999 or more), else 1. Give photographs like "
        "those that you score, the more the better; on a CPU the arithmetic is imitated",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a photograph and line")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    from model.scorer import Scorer  # torch is not needed for --help

    try:
        scorer = Scorer.load(
            arguments.adapter,
            base_model=arguments.base_model,
            template=arguments.template,
            device=arguments.device,
            dtype=arguments.dtype,
            fp8=arguments.fp8 and not arguments.fp8_check,
        )
        if arguments.fp8_check:
            return _check_fp8(scorer, arguments.photographs)
    except ConfigurationError as error:
        for reason in error.reasons:
            print(f"error: {reason}", file=sys.stderr)
        return 2
    if not arguments.json:
        print(scorer.describe())
    failed = 0
    for photograph in arguments.photographs:
        try:
            (prediction,) = scorer.score([photograph], [arguments.context])
        except ScoringError as error:
            failed += 1
            print(f"{photograph}: not scored ({error.stage}): {error.message}", file=sys.stderr)
            continue
        if arguments.json:
            print(json.dumps({"image_uri": photograph, **asdict(prediction), **asdict(scorer.provenance)}))
        else:
            print(f"\n{photograph}\n{readable(prediction, scorer.manifest.vocabulary)}")
    return 1 if failed else 0


def _check_fp8(scorer: Scorer, photographs: Sequence[str]) -> int:
    from model.fp8_check import check_fp8

    try:
        agreement = check_fp8(scorer, photographs)
    except ScoringError as error:
        print(f"{error.image_uri}: not scored ({error.stage}): {error.message}", file=sys.stderr)
        return 1
    print(agreement.text())
    return 0 if agreement.passes else 1


def readable(prediction: Prediction, vocabulary: Vocabulary) -> str:
    """Lay out a prediction for a person: score with a bar, then an attribute a line."""
    lines = []
    if prediction.score is not None:
        filled = round(prediction.score / 10 * _BAR)
        bar = "█" * filled + "░" * (_BAR - filled)
        std = "       " if prediction.score_std is None else f" ± {prediction.score_std:.2f}"
        lines.append(f"  {'score':<24}{prediction.score:5.2f}{std}  {bar}")
    if prediction.composite_score is not None:
        lines.append(f"  {'composite score':<24}{prediction.composite_score:5.2f}")
    for attribute in vocabulary.attributes:
        value = getattr(prediction, attribute.name)
        if value is None:
            continue
        sure = getattr(prediction, f"{attribute.name}_confidence", None)
        title = attribute.title.removesuffix(" Score").lower()
        shown = f"{value} of 10" if attribute.kind == "integer" else value
        lines.append(f"  {title:<24}{shown}" + (f"  ({sure:.0%})" if sure is not None else ""))
    if prediction.reasons:
        lines += [f"  {line}" for line in prediction.reasons.splitlines()]
    if prediction.format_mass is not None and prediction.format_mass < 0.5:
        lines.append(f"  format mass {prediction.format_mass:.2f}: the adapter hardly fits this template")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
