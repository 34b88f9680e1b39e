"""The command ``evaluate``: what an adapter, or an untuned base, is worth on labelled images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from schemas.errors import ConfigurationError

_UNTUNED = "none"

_EVALUATE = """Score the images of a labelled data set exactly as serving does, and print, with 95 % intervals
that draw sources and not images:

  SRCC, PLCC and RMSE of the score and every attribute, by decided and by expected value
  accuracy of the labels beside saying the most frequent one always; calibration of their confidences
  the score's PLCC also after VQEG's 4-parameter logistic, labelled as such
  SRCC of every predicted attribute, and of the composite score, with mos
  how many true scores lie within one and two score_std
  with --context all the score by the context shown, over all images and those that have a context
  the score read in every way of its head (digits: digit_tree, per_position, greedy) from the one decode

Answers that are written freely (--decoder generate) are read leniently in dress and strictly in content: a
value is missing, not among the allowed ones, or out of range; all are counted. --json holds every answer.
Zero-shot figures of a base: evaluate none DATA --base-model Qwen/Qwen2-VL-7B-Instruct --decoder generate
An image that is a video is looked at once a second; its score is the mean of its frames'.

annotations.jsonl holds one JSON object a line: image, mos, the attributes by name, context, source, split.
Several DATA make one table with a row each, then the figures of each.
Exit code 0, or 2 for a wrong configuration or images that cannot be read, all of them named."""


def add_evaluate(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``evaluate``."""
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
        help="directory of the adapter; or the word embedded: the small model that ships here; or the word "
        "none: the base that --base-model names as it is, untuned, which takes --decoder generate",
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
    evaluate.add_argument(
        "--template", metavar="NAME", help="answer template (default: the adapter's; of none: score_form)"
    )
    evaluate.add_argument(
        "--decoder",
        choices=("slots", "generate"),
        default="slots",
        help="slots: only the values are decided, exactly as in serving; generate: the model writes its "
        "answer freely, and what cannot be parsed is counted beside every n (default: %(default)s)",
    )
    # The default stands in training.free_generation: --help must not wait for torch.
    evaluate.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="of generate: longer answers are cut off (default: 512)",
    )
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
        "--context",
        choices=("given", "none", "shuffled", "all"),
        default="given",
        help="text about the images to show the model: their own, none, or that of another image (of those "
        "that have some); all: given, and the score also with the others, with paired differences to none "
        "(default: %(default)s)",
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
    problems += _decoder_problems(options)
    if problems:
        raise ConfigurationError(problems)
    from model.backbone import EMBEDDED, EMBEDDED_ADAPTER
    from training.evaluation_html import evaluation_page
    from training.evaluation_report import reports_json, reports_markdown
    from training.evaluation_run import EvaluationSettings, run_evaluations
    from training.free_generation import MAX_NEW_TOKENS
    from training.text_files import replace_text

    words = {EMBEDDED: EMBEDDED_ADAPTER, _UNTUNED: None}
    settings = EvaluationSettings(
        adapter=words[options.adapter] if options.adapter in words else Path(options.adapter),
        data=tuple(options.data),
        base_model=options.base_model,
        template=options.template,
        split=options.split,
        mos_ranges=tuple((low, high) for low, high in options.mos_range),
        context=options.context,
        limit=options.limit,
        device=options.device,
        allow_failures=options.allow_failures,
        decoder=options.decoder,
        max_new_tokens=MAX_NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens,
    )
    reports = run_evaluations(settings)
    if options.json is not None:
        replace_text(options.json, reports_json(reports))
    if options.html is not None:
        replace_text(options.html, evaluation_page(reports))
    print(reports_markdown(reports))
    return 0


def _decoder_problems(options: argparse.Namespace) -> list[str]:
    problems = []
    free = options.decoder == "generate"
    if options.adapter == _UNTUNED and not free:
        problems.append("none: a base that nobody tuned knows none of our forms; it takes --decoder generate")
    if options.adapter == _UNTUNED and options.base_model is None:
        problems.append("none: --base-model must say which base is to answer")
    if options.max_new_tokens is not None and not free:
        problems.append("--max-new-tokens: only --decoder generate writes answers that could be too long")
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        problems.append(f"--max-new-tokens: {options.max_new_tokens} is not 1 or more")
    return problems
