"""One training run from a folder of labelled images to an adapter, that may be killed at any point.

While it trains, its states stand in a folder beside the adapter-to-be; the same command goes on from there.
The adapter itself appears complete, or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.adapters import save_adapter
from model.backbone import resolve_base
from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from training.annotation_files import image_file, read_annotations
from training.config import StageConfig
from training.data import LabelledImages
from training.dataset_file import read_facts
from training.loop import Trained
from training.score_ranges import rescaled
from training.stages import AdapterWords, adapter_manifest, fingerprint, train_stage
from training.text_files import replace_text

SUMMARY_NAME = "training.json"
_RUN_NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the command line chooses.

    Attributes:
        config: The stage.
        data: Folders with annotations and images, or such files; their ``train`` parts are used. Where a
            ``dataset.json`` says another range of mos than the configuration, mos is mapped to that.
        output: The adapter's folder; must not be there yet.
        base_model: Name or path of the base.
        name: Of the adapter, as rows name it.
        description: For people.
        synthetic: True where labels are synthetic and say nothing about human taste.
        device: ``auto`` or ``cpu``.
    """

    config: StageConfig
    data: Sequence[Path]
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
    images, labelled_by = _images(settings)
    work = unfinished_folder(settings.output)
    _claim(work, fingerprint(settings.config, images), first=_is_first())
    model, trained = train_stage(
        settings.config, base, images, checkpoints=work / "checkpoints", device=settings.device
    )
    first = _is_first()
    if first:
        words = AdapterWords(settings.name, settings.description, settings.base_model, settings.synthetic)
        manifest = adapter_manifest(settings.config, base, images, words, labelled_by=labelled_by)
        save_adapter(settings.output, model, None, manifest)
        replace_text(settings.output / SUMMARY_NAME, summary(settings, len(images), trained))
        shutil.rmtree(work)
    return first


def _images(settings: RunSettings) -> tuple[LabelledImages, str | None]:
    """The images of all data sets, their mos in the configuration's range; and who labelled them."""
    score = settings.config.score
    found: list[Annotation] = []
    problems: list[str] = []
    labelled_by: set[str | None] = set()
    for data in settings.data:
        try:
            annotations = read_annotations(data, "train")
            facts = read_facts(data)
        except ConfigurationError as error:
            problems += error.reasons
            continue
        native = facts.native if facts else (score.native_low, score.native_high)
        labelled_by |= {facts.labelled_by} - {None} if facts else set()
        for annotation in annotations:
            placed = annotation.model_copy(update={"image": str(image_file(data, annotation).resolve())})
            found.append(rescaled(placed, native, (score.native_low, score.native_high)))
    if len(labelled_by) > 1:
        problems.append("the data sets were labelled by different adapters; label them by one")
    if problems:
        raise ConfigurationError(problems)
    return LabelledImages.of_folder(Path(), found, settings.config.image), next(iter(labelled_by), None)


def summary(settings: RunSettings, images: int, trained: Trained) -> str:
    """The run as JSON: configuration, data, losses by step, time."""
    content = {
        "name": settings.name,
        "base_model": settings.base_model,
        "data": [str(path) for path in settings.data],
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
