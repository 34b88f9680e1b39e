"""``python -m training demo``: from free photographs to a base, two adapters and their card."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from model.adapters import save_adapter
from model.backbone import EMBEDDED, EMBEDDED_BASE
from model.scorer import Scorer
from model.tensor_files import read_header
from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from training.annotation_files import image_file
from training.config import StageConfig, shipped_config
from training.data import LabelledImages
from training.demo.aims import check_aims
from training.demo.base import create_base, save_base
from training.demo.card import CardFacts, Sources, licence_counts, write_card
from training.demo.cutouts import cutout_catalogue
from training.demo.dataset import (
    EVERY_CUTOUT,
    EVERY_PHOTOGRAPH,
    LESSONS_SEED,
    PICTURES,
    DataSettings,
    EvaluationSplit,
    Material,
    find_material,
    parts_of,
    share_out,
    write_dataset,
)
from training.demo.eyes import EYES, EyesPhase, teach_to_see
from training.demo.ladder_report import FEWEST_FRAMES, climb_ladders, frame_size, frames_of
from training.demo.ladders import Frame
from training.demo.lessons import Lesson, lessons
from training.demo.photographs import catalogue, default_cache
from training.demo.tokenizer import learn_tokenizer
from training.evaluate import evaluate_predictions
from training.evaluation import Evaluation
from training.scoring import score_images
from training.stages import AdapterWords, adapter_manifest, train_stage

_LOG = logging.getLogger(__name__)

_FEWEST_PICTURES, _FEWEST_STEPS = 60, 3
_LADDER_PHOTOGRAPHS = 12
"""With BRISQUE beside the model about two and a half minutes."""
_DATA = "data"
_PARTS = ("base", "stage1", "adapter", "CARD.md")

DATASETS: Mapping[EvaluationSplit, str] = {
    "test": "synthetic degradations of held-out photographs",
    "validation": "synthetic degradations of validation photographs",
}
"""What the manifests call the pictures that their figures are of."""
_SYNTHETIC = "Trained on synthetic degradations of photographs. It knows these degradations, NOT human taste."


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the command line chooses.

    Attributes:
        output: Folder for base/, stage1/, adapter/ and CARD.md.
        photos: Any folder of photographs; None = those of the catalogue.
        photos_cache: Folder of what is fetched; None = in the user's cache folder.
        effort: Share of the full run's steps and pictures.
        threads: CPU threads, and processes that make pictures.
        replace: Whether a model that is in ``output`` already may be replaced.
        validate: Train on less, and report on what was left out instead of the test pictures: for choosing
            between recipes without looking at those.
    """

    output: Path
    photos: Path | None = None
    photos_cache: Path | None = None
    effort: float = 1.0
    threads: int = 2
    replace: bool = False
    validate: bool = False

    @property
    def split(self) -> EvaluationSplit:
        """The split that all figures are of."""
        return "validation" if self.validate else "test"


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How everything is trained."""

    base: StageConfig
    stage1: StageConfig
    stage2: StageConfig
    eyes: Sequence[EyesPhase]


@dataclass(frozen=True, slots=True)
class _Data:
    """The data set in its folder, what else is known of it, and what the ladders need.

    Attributes:
        folder: Of the data set.
        images: To train on.
        labels: By split.
        material: To train on.
        sources: By split, for the card.
        split: That all figures are of.
        frames: Photographs of that split, for the ladders.
    """

    folder: Path
    images: LabelledImages
    labels: Mapping[Split, Sequence[Annotation]]
    material: Material
    sources: Mapping[Split, Sources]
    split: EvaluationSplit
    frames: list[Frame]


class _Phases:
    """Says what is being done, and adds up how many minutes each took."""

    def __init__(self) -> None:
        self.minutes: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        _LOG.info("%s", name)
        started = time.monotonic()
        yield
        passed = (time.monotonic() - started) / 60
        self.minutes[name] = self.minutes.get(name, 0.0) + passed
        _LOG.info("%s: done in %.1f minutes", name, passed)


def train_demo(settings: DemoSettings) -> str:
    """Run the whole chain; ``settings.output`` gets all of it at the end, or nothing.

    Returns:
        The card's text.

    Raises:
        ConfigurationError: The photographs are not here and cannot be fetched, or an earlier model is in
            the way.
    """
    _refuse_leftovers(settings)
    _quiet(settings.threads)
    recipe, phases = _recipe(settings.effort), _Phases()
    settings.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.output, prefix=".unfinished-") as folder:
        work = Path(folder)
        with phases("pictures"):
            data = _make_data(settings, recipe, work / _DATA)
        with phases("eyes"):
            tokenizer = learn_tokenizer()
            model = create_base(tokenizer, recipe.base.seed)
            teach_to_see(model, _eyes_lessons(data, recipe, settings.threads), recipe.base.seed)
            save_base(model, tokenizer, work / "base")
        with phases("base"):
            trained, _ = train_stage(recipe.base, work / "base", data.images)
            save_base(trained, tokenizer, work / "base")
        evaluations = [
            _adapter(config, work, name, data, _base_name(settings), phases)
            for config, name in ((recipe.stage1, "stage1"), (recipe.stage2, "adapter"))
        ]
        with phases("ladders"):
            ladders = climb_ladders(_scorer(work, "adapter"), data.frames)
        minutes = sum(phases.minutes.values()) if settings.effort >= 1 else None
        megabytes = _megabytes(work)
        facts = CardFacts(
            parameters=_parameters(work / "base"),
            megabytes=megabytes,
            train=data.sources["train"],
            evaluated=data.sources[data.split],
            split=data.split,
            photos=settings.photos is not None,
            minutes=phases.minutes,
            effort=settings.effort,
            threads=settings.threads,
            configs=(recipe.base, recipe.stage1, recipe.stage2),
            eyes=recipe.eyes,
            stage1=evaluations[0],
            stage2=evaluations[1],
            ladders=ladders,
            aims=check_aims(evaluations[1], ladders, minutes, settings.threads, megabytes),
        )
        card = write_card(work / "CARD.md", facts)
        _publish(work, settings.output)
    return card


def _recipe(effort: float) -> _Recipe:
    def steps(full: int) -> int:
        return max(_FEWEST_STEPS, round(full * effort))

    def config(name: str) -> StageConfig:
        full = shipped_config(name)
        return full.model_copy(update={"steps": steps(full.optimiser_steps(PICTURES["train"]))})

    eyes = tuple(replace(phase, steps=steps(phase.steps)) for phase in EYES)
    return _Recipe(config("base"), config("demo_stage1"), config("demo_stage2"), eyes)


def _make_data(settings: DemoSettings, recipe: _Recipe, folder: Path) -> _Data:
    share = min(settings.effort, 1.0)
    splits: tuple[Split, ...] = ("train", settings.split)
    material = find_material(splits, settings.photos, settings.photos_cache or default_cache())
    # Found out after the training that no photograph is large enough it would be a pity.
    frames = frames_of(
        (file.read() for file in material[settings.split].photographs),
        frame_size(recipe.stage2.image),
        fewest=FEWEST_FRAMES,
        most=max(FEWEST_FRAMES, round(_LADDER_PHOTOGRAPHS * share)),
    )
    counts = {split: max(_FEWEST_PICTURES, round(PICTURES[split] * share)) for split in splits}
    wanted = DataSettings(counts, recipe.base.image, processes=settings.threads)
    labels = write_dataset(folder, material, wanted)
    return _Data(
        folder,
        LabelledImages.of_folder(folder, labels["train"], recipe.base.image),
        labels,
        material["train"],
        _sources(material, counts, of_catalogue=settings.photos is None),
        settings.split,
        frames,
    )


def _eyes_lessons(
    data: _Data, recipe: _Recipe, processes: int
) -> Iterator[tuple[EyesPhase, Iterator[Lesson]]]:
    """Pictures for the eyes; none of them is in the data set, and no phase sees those of another."""
    for number, phase in enumerate(recipe.eyes):
        rule = phase.rule(recipe.base.image)
        yield phase, lessons(data.material, rule, phase.pictures, LESSONS_SEED + number, processes)


def _sources(
    material: Mapping[Split, Material], counts: Mapping[Split, int], *, of_catalogue: bool
) -> dict[Split, Sources]:
    splits = tuple(material)
    photographs = share_out(splits, {part: catalogue(part) for part in parts_of(splits)}, EVERY_PHOTOGRAPH)
    cutouts = share_out(splits, {part: cutout_catalogue(part) for part in parts_of(splits)}, EVERY_CUTOUT)
    return {
        split: Sources(
            len(found.photographs),
            licence_counts(one.licence for one in photographs[split]) if of_catalogue else None,
            licence_counts(one.licence for one in cutouts[split]),
            counts[split],
        )
        for split, found in material.items()
    }


def _adapter(
    config: StageConfig, work: Path, name: str, data: _Data, base_name: str, phases: _Phases
) -> Evaluation:
    """Train an adapter, save it, score unseen pictures with what was saved, save it with the results."""
    words = AdapterWords(f"demo-{config.stage}", _SYNTHETIC, base_name, synthetic=True)
    base, draft = work / "base", f"{name}-draft"
    with phases(config.stage):
        trained, _ = train_stage(config, base, data.images)
        save_adapter(work / draft, trained, None, adapter_manifest(config, base, data.images, words))
    with phases("evaluation"):
        labels = data.labels[data.split]
        files = [image_file(data.folder, label) for label in labels]
        scored = score_images(_scorer(work, draft), files, [label.context for label in labels])
        evaluation = evaluate_predictions(
            scored.predictions, labels, VOCABULARY, config.score, scored.readings
        )
        results = evaluation.results(DATASETS[data.split])
        manifest = adapter_manifest(config, base, data.images, words, results)
        save_adapter(work / name, trained, None, manifest)
    return evaluation


def _scorer(work: Path, name: str) -> Scorer:
    return Scorer.load(work / name, base_model=str(work / "base"), device="cpu")


def _refuse_leftovers(settings: DemoSettings) -> None:
    # Found out after the training it would be a pity.
    paths = [settings.output / name for name in _PARTS]
    there = [str(path) for path in paths if path.exists()]
    if there and not settings.replace:
        raise ConfigurationError(
            f"--output: {', '.join(there)} exist already; name another folder, or say --replace"
        )


def _publish(work: Path, output: Path) -> None:
    for name in _PARTS:
        target = output / name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(work / name, target)


def _base_name(settings: DemoSettings) -> str:
    # The model that ships inside the package names its base by the word that means "inside the package".
    base = (settings.output / "base").resolve()
    return EMBEDDED if base == EMBEDDED_BASE.resolve() else str(base)


def _quiet(threads: int) -> None:
    torch.set_num_threads(threads)
    # Its progress bars and hints are about models a thousand times larger.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _parameters(base: Path) -> int:
    """Number of weights; tied ones count once."""
    shapes = read_header(base / "model.safetensors").shapes
    return sum(math.prod(shape) for shape in shapes.values())


def _megabytes(work: Path) -> float:
    folders = [work / name for name in _PARTS if (work / name).is_dir()]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
