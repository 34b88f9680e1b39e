"""The commands ``train``, from labelled images to an adapter, and ``label``, from an adapter to labels."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from schemas.errors import ConfigurationError

_TRAIN = """Train one stage and write an adapter that the pipeline takes. CONFIG is a YAML file, or the name
of one that ships here: stage1 and stage2 are RealQA's recipe for Qwen2-VL-7B, direct asks for the score
alone; demo_stage1, demo_stage2 and demo_direct are the small model's, and demo_context reads captions.
initialised and scratch train all weights, from the base's and from random ones, and write a base model: to
see what its own training is worth (command curves).

With validate_every in the configuration, images of split validation are scored meanwhile, and the weights
that did best are written; stop_after ends a run that gets no better. training.json holds all curves.

A run that was killed goes on where it was when the same command is given again. Several processes:

  torchrun --nproc-per-node 4 -m training train stage1 DATA --base-model Qwen/Qwen2-VL-7B-Instruct --output A

Exit code 0, or 2 for a wrong configuration or wrong data, with all reasons."""


_LABEL = """Let an adapter name the attributes of images that lack them, and write a data set that holds its
labels beside those that were there: what stage 2 learns from, when the data have opinion scores only. The
images stay where they are. A run that was killed goes on when the same command is given again.

Exit code 0, or 2 for a wrong adapter, wrong data or images that cannot be read, all of them named."""


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
        "data",
        type=Path,
        nargs="+",
        metavar="DATA",
        help="folders with annotations and images, or such files; their split train is used",
    )
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="the adapter's folder; new")
    train.add_argument(
        "--base-model",
        default="embedded",
        metavar="NAME",
        help="name or path of the base model (default: the small one that ships here)",
    )
    train.add_argument(
        "--continue-from",
        type=Path,
        metavar="ADAPTER",
        help="start from this adapter's weights (default: a new adapter on the base, as RealQA's stage 2)",
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
    train.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="write every figure for TensorBoard, into a folder of the adapter's name in there "
        "(needs realqa-beam[tensorboard])",
    )


def _train(options: argparse.Namespace) -> int:
    problems = []
    if options.output.exists():
        problems.append(f"--output: {options.output} exists already")
    problems += [f"DATA: there is no {data}" for data in options.data if not data.exists()]
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
        continue_from=options.continue_from,
        tensorboard=options.tensorboard,
        device=options.device,
    )
    if run_training(settings):
        print(f"{'base model' if settings.config.stage == 'base' else 'adapter'} in {options.output}")
    return 0


def add_label(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``label``."""
    label = add_parser(
        "label",
        help="let an adapter name the attributes of a data set that lacks them",
        description=_LABEL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    label.set_defaults(handler=_label)
    label.add_argument("adapter", type=Path, metavar="ADAPTER", help="directory of the adapter")
    label.add_argument(
        "data", type=Path, metavar="DATA", help="folder with annotations and images, or such a file"
    )
    label.add_argument("output", type=Path, metavar="DEST", help="folder of the labelled data set; new")
    label.add_argument(
        "--base-model", metavar="NAME", help="name or path of the base model (default: as the adapter says)"
    )
    label.add_argument("--template", metavar="NAME", help="answer template (default: the adapter's)")
    label.add_argument(
        "--mos-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="range of mos, where no dataset.json beside the annotations says it",
    )
    label.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")


def _label(options: argparse.Namespace) -> int:
    if options.mos_range is not None and not options.mos_range[0] < options.mos_range[1]:
        raise ConfigurationError("--mos-range: LOW is not below HIGH")
    from training.labelling import LabelSettings, label_dataset

    settings = LabelSettings(
        adapter=options.adapter,
        data=options.data,
        output=options.output,
        base_model=options.base_model,
        template=options.template,
        mos_range=options.mos_range and tuple(options.mos_range),
        device=options.device,
    )
    print(f"{label_dataset(settings):,} images labelled in {options.output}")
    return 0
