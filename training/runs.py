"""One training run from a folder of labelled images to an adapter, that may be killed at any point.

While it trains, its states stand in a folder beside the adapter-to-be; the same command goes on from there.
The adapter itself appears complete, or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from model.adapters import save_adapter
from model.backbone import resolve_base
from schemas.errors import ConfigurationError
from training.annotation_files import read_annotations
from training.config import StageConfig
from training.data import LabelledImages
from training.loop import Trained
from training.stages import AdapterWords, adapter_manifest, fingerprint, train_stage
from training.text_files import replace_text

SUMMARY_NAME = "training.json"
_RUN_NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the command line chooses.

    Attributes:
        config: The stage.
        data: Folder with ``annotations.jsonl`` and images, or such a file; its ``train`` part is used.
        output: The adapter's folder; must not be there yet.
        base_model: Name or path of the base.
        name: Of the adapter, as rows name it.
        description: For people.
        synthetic: True where labels are synthetic and say nothing about human taste.
        device: ``auto`` or ``cpu``.
    """

    config: StageConfig
    data: Path
    output: Path
    base_model: str
    name: str
    description: str = ""
    synthetic: bool = False
    device: str = "auto"


def unfinished_folder(output: Path) -> Path:
    """Where a run keeps its states until the adapter is there."""
    return output.parent / f".{output.name}.training"


def run_training(settings: RunSettings) -> bool:
    """Train, or go on training, and save the adapter.

    Every process of a distributed launch calls this; the first one saves.

    Returns:
        Whether this process is the one that saved.

    Raises:
        ConfigurationError: Wrong data or base, the output exists, or what an earlier run left beside it is
            of another configuration or other data.
    """
    if settings.output.exists():
        raise ConfigurationError(f"{settings.output} exists already; an adapter is never changed in place")
    base = resolve_base(settings.base_model)
    annotations = read_annotations(settings.data, "train")
    folder = settings.data if settings.data.is_dir() else settings.data.parent
    images = LabelledImages.of_folder(folder, annotations, settings.config.image)
    work = unfinished_folder(settings.output)
    _claim(work, fingerprint(settings.config, images), first=_is_first())
    model, trained = train_stage(
        settings.config, base, images, checkpoints=work / "checkpoints", device=settings.device
    )
    first = _is_first()
    if first:
        words = AdapterWords(settings.name, settings.description, settings.base_model, settings.synthetic)
        save_adapter(settings.output, model, None, adapter_manifest(settings.config, base, images, words))
        replace_text(settings.output / SUMMARY_NAME, summary(settings, len(images), trained))
        shutil.rmtree(work)
    return first


def summary(settings: RunSettings, images: int, trained: Trained) -> str:
    """The run as JSON: configuration, data, losses by step, time."""
    content = {
        "name": settings.name,
        "base_model": settings.base_model,
        "data": str(settings.data),
        "images": images,
        "config": settings.config.model_dump(mode="json"),
        "steps": settings.config.optimiser_steps(images),
        "losses": [{"step": step, "loss": loss} for step, loss in trained.losses],
        "resumed_from_step": trained.resumed_from,
        "seconds_of_last_process": round(trained.seconds, 1),
    }
    return json.dumps(content, indent=2) + "\n"


def _claim(work: Path, run: str, *, first: bool) -> None:
    """Refuse the states of another run; otherwise the folder is this run's from here on."""
    file = work / _RUN_NAME
    if work.exists():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError):
            found = None  # killed before the first line was written: nothing to go on from
        if found not in (None, run):
            raise ConfigurationError(
                f"{work} holds a run with another configuration or other data; remove it, or name another "
                "--output"
            )
    if first:
        work.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps({"fingerprint": run}) + "\n")


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
