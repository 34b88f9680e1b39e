"""One training run from a folder of labelled images to an adapter, that may be killed at any point.

While it trains, its states stand in a folder beside the adapter-to-be; the same command goes on from there.
The adapter itself appears complete, or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import Qwen2VLForConditionalGeneration

from model.adapters import save_adapter
from model.backbone import resolve_base
from schemas.annotations import Annotation, Split
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from training.annotation_files import annotations_file, checked_rows, image_file, read_annotations
from training.config import StageConfig
from training.continuing import StartingAdapter, keeps_head, starting_adapter
from training.curves import SUMMARY_NAME, points_of
from training.data import LabelledImages
from training.dataset_file import read_facts
from training.loop import Trained
from training.score_ranges import rescaled
from training.stages import AdapterWords, adapter_manifest, fingerprint, train_stage
from training.text_files import replace_text
from training.watching import check_tensorboard

_LOG = logging.getLogger(__name__)

_RUN_NAME = "run.json"
_TOKENIZER_NAME = "tokenizer.json"


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
        continue_from: Adapter whose weights are where the new one starts; None = a new one on the base.
        tensorboard: Folder in which a folder of this name gets TensorBoard's events; None = none are written.
        device: ``auto`` or ``cpu``.
    """

    config: StageConfig
    data: Sequence[Path]
    output: Path
    base_model: str
    name: str
    description: str = ""
    synthetic: bool = False
    continue_from: Path | None = None
    tensorboard: Path | None = None
    device: str = "auto"


def unfinished_folder(output: Path) -> Path:
    """Where a run keeps its states until the adapter is there."""
    return output.parent / f".{output.name}.training"


@dataclass(frozen=True, slots=True)
class RunImages:
    """The labelled images of all data sets of a run, their mos in the configuration's range.

    Attributes:
        train: What is learnt from.
        validation: What the best weights are chosen by; None where the configuration does not ask for it.
        labelled_by: The adapter that labelled them, if one did.
    """

    train: LabelledImages
    validation: LabelledImages | None
    labelled_by: str | None

    def run_fingerprint(self, config: StageConfig, start: StartingAdapter | None) -> str:
        """What makes a run this very run: configuration, images, labels (validation's too), and its start."""
        chosen_by = "" if self.validation is None else self.validation.digest
        return fingerprint(config, self.train, start) + chosen_by


def run_training(settings: RunSettings) -> bool:
    """Train, or go on training, and save the adapter; of stage ``base``, the base model.

    Every process of a distributed launch calls this; the first one saves.

    Returns:
        Whether this process is the one that saved.

    Raises:
        ConfigurationError: Wrong data or base, the output exists, or what an earlier run left beside it is
            of another configuration or other data. Or TensorBoard is asked for and not installed.
    """
    if settings.output.exists():
        raise ConfigurationError(f"{settings.output} exists already; an adapter is never changed in place")
    if settings.tensorboard is not None:
        check_tensorboard(settings.tensorboard)
    base = resolve_base(settings.base_model)
    continued = settings.continue_from
    start = None if continued is None else starting_adapter(continued, base, settings.config)
    images = _images(settings)
    work = unfinished_folder(settings.output)
    _claim(work, images.run_fingerprint(settings.config, start), first=_is_first())
    _LOG.info("%s", inherited(settings, images, start))
    model, trained = train_stage(
        settings.config,
        base,
        images.train,
        validation=images.validation,
        start=start,
        checkpoints=work / "checkpoints",
        tensorboard=settings.tensorboard and settings.tensorboard / settings.name,
        device=settings.device,
    )
    first = _is_first()
    if first:
        _save(settings, base, images, start, model)
        replace_text(settings.output / SUMMARY_NAME, summary(settings, images, trained))
        shutil.rmtree(work)
    return first


def inherited(settings: RunSettings, images: RunImages, start: StartingAdapter | None) -> str:
    """Say in a line what a run starts from, and who named the attributes that it learns."""
    weights = (
        f"a new adapter on {settings.base_model}"
        if start is None
        else f"adapter {start.manifest.name} ({start.revision[:12]}) on {settings.base_model}"
    )
    if settings.config.stage == "base":
        weights = f"{settings.base_model}, all weights"
    if settings.config.initialise == "random":
        weights += ", its weights drawn anew"
    if start is not None and not keeps_head(start, settings.config):
        weights += f", with a new score head ({settings.config.score.head})"
    labels = "as given" if images.labelled_by is None else f"named by adapter {images.labelled_by[:12]}"
    return (
        f"{settings.config.stage}: starts from {weights}; {len(images.train):,} images, attributes {labels}"
    )


def _save(
    settings: RunSettings,
    base: Path,
    images: RunImages,
    start: StartingAdapter | None,
    model: Qwen2VLForConditionalGeneration | PeftModel,
) -> None:
    if settings.config.stage == "base":
        _save_base(settings.output, model, base)
        return
    words = AdapterWords(settings.name, settings.description, settings.base_model, settings.synthetic)
    manifest = adapter_manifest(
        settings.config, base, images.train, words, labelled_by=images.labelled_by, start=start
    )
    save_adapter(settings.output, model, None, manifest)


def _save_base(output: Path, model: Qwen2VLForConditionalGeneration, base: Path) -> None:
    """Write a base model with the tokeniser of the one it was made from; complete, or not at all."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        model.save_pretrained(unfinished)
        shutil.copyfile(base / _TOKENIZER_NAME, unfinished / _TOKENIZER_NAME)
        # Readable for all who may read the folder; their writers leave them to their owner.
        for path in (unfinished, *unfinished.glob("*.safetensors")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.replace(unfinished, output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _images(settings: RunSettings) -> RunImages:
    config = settings.config
    splits: tuple[Split, ...] = ("train", "validation") if config.validate_every else ("train",)
    found: dict[Split, list[Annotation]] = {split: [] for split in splits}
    problems: list[str] = []
    labelled_by: set[str | None] = set()
    for data in settings.data:
        try:
            # One that has none of them is read for the first: that says what is missing.
            for split in [one for one in splits if _has(data, one)] or splits[:1]:
                found[split] += _annotations(data, split, config.score)
            facts = read_facts(data)
        except ConfigurationError as error:
            problems += error.reasons
            continue
        labelled_by |= {facts.labelled_by} - {None} if facts else set()
    if len(labelled_by) > 1:
        problems.append("the data sets were labelled by different adapters; label them by one")
    if not problems:
        problems += [f"no image of DATA is of split {split!r}" for split in splits if not found[split]]
    if problems:
        raise ConfigurationError(problems)
    by_split = {
        split: LabelledImages.of_folder(Path(), annotations, config.image)
        for split, annotations in found.items()
    }
    return RunImages(by_split["train"], by_split.get("validation"), next(iter(labelled_by), None))


def _annotations(data: Path, split: Split, scale: ScoreScale) -> list[Annotation]:
    """A data set's annotations of a split, with absolute paths, their mos in our range."""
    facts, ours = read_facts(data), (scale.native_low, scale.native_high)
    return [
        rescaled(
            annotation.model_copy(update={"image": str(image_file(data, annotation).resolve())}),
            facts.native if facts else ours,
            ours,
        )
        for annotation in read_annotations(data, split)
    ]


def _has(data: Path, split: Split) -> bool:
    rows = checked_rows(annotations_file(data))
    return any(row.annotation is not None and row.annotation.split == split for row in rows)


def summary(settings: RunSettings, images: RunImages, trained: Trained) -> str:
    """The run as JSON: configuration, data, curves by step, what validation chose, time."""
    content = {
        "name": settings.name,
        "base_model": settings.base_model,
        "data": [str(path) for path in settings.data],
        "images": len(images.train),
        "validation_images": 0 if images.validation is None else len(images.validation),
        "config": settings.config.model_dump(mode="json"),
        "steps": settings.config.optimiser_steps(len(images.train)),
        "best_step": trained.best_step,
        "stopped_early": trained.stopped_early,
        "curves": {name: points_of(curve) for name, curve in trained.curves.items()},
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
