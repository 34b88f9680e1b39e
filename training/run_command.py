"""The command ``train``: one stage, from a configuration and labelled images to an adapter."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from schemas.errors import ConfigurationError

_TRAIN = """Train one stage and write an adapter that the pipeline takes. CONFIG is a YAML file, or the name
of one that ships here: stage1 and stage2 are RealQA's recipe for Qwen2-VL-7B, direct asks for the score
alone; demo_stage1 and demo_stage2 are the small model's.

A run that was killed goes on where it was when the same command is given again. Several processes:

  torchrun --nproc-per-node 4 -m training train stage1 DATA --base-model Qwen/Qwen2-VL-7B-Instruct --output A

Exit code 0, or 2 for a wrong configuration or wrong data, with all reasons."""


def add_train(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``train``."""
    train = add_parser(
        "train",
        help="train an adapter on labelled images: attributes (stage 1) or the score (stage 2)",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(handler=_train)
    train.add_argument("config", metavar="CONFIG", help="YAML file, or the name of one that ships here")
    train.add_argument(
        "data", type=Path, metavar="DATA", help="folder with annotations.jsonl and images, or such a file"
    )
    train.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the adapter's folder; new"
    )
    train.add_argument(
        "--base-model",
        default="embedded",
        metavar="NAME",
        help="name or path of the base model (default: the small one that ships here)",
    )
    train.add_argument("--name", help="of the adapter, as rows name it (default: the output folder's)")
    train.add_argument("--description", default="", help="for people")
    train.add_argument(
        "--synthetic", action="store_true", help="labels are synthetic: every card and row will say so"
    )
    train.add_argument(
        "--device",
        choices=("auto", "cpu"),
        default="auto",
        help="auto: the GPU that the launcher gives each process, else the CPU (default: %(default)s)",
    )


def _train(options: argparse.Namespace) -> int:
    problems = []
    if options.output.exists():
        problems.append(f"--output: {options.output} exists already")
    if not options.data.exists():
        problems.append(f"DATA: there is no {options.data}")
    if problems:
        raise ConfigurationError(problems)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is here
    from training.config import chosen_config
    from training.runs import RunSettings, run_training

    settings = RunSettings(
        config=chosen_config(options.config),
        data=options.data,
        output=options.output,
        base_model=options.base_model,
        name=options.name or options.output.name,
        description=options.description,
        synthetic=options.synthetic,
        device=options.device,
    )
    if run_training(settings):
        print(f"adapter in {options.output}")
    return 0
