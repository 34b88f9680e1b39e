"""``python -m training compare``: every variant trained and evaluated on the same split.

A comparison that was killed goes on when the same command is given again: adapters that are there are not
trained again, and predictions that are there are not made again.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from model.adapters import read_manifest
from model.scorer import Scorer
from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from schemas.records import Prediction
from training.annotation_files import image_file, read_annotations
from training.comparison import Comparison, variant_configs
from training.comparison_figures import SeedRun, VariantFigures, compare_variants
from training.config import StageConfig
from training.curves import SUMMARY_NAME
from training.dataset_file import read_facts
from training.evaluate import FEWEST_IMAGES, source_numbers
from training.runs import RunSettings, run_training
from training.score_ranges import rescaled
from training.scoring import score_images
from training.text_files import replace_text

_LOG = logging.getLogger(__name__)

TABLE_NAME, FIGURES_NAME = "comparison.md", "comparison.json"
_PREDICTIONS_NAME = "predictions.json"
_FIELDS = frozenset(field.name for field in fields(Prediction))


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """What the command line chooses.

    Attributes:
        comparison: The variants.
        data: Folders with annotations and images, or such files; split ``train`` is learnt from.
        output: Folder of all runs and the table.
        start: Configuration to start from; None = the comparison's own.
        base_model: Name or path of the base.
        seeds: Runs a variant, with the configuration's seed and those after it.
        split: The part that figures are of.
        synthetic: True where labels are synthetic.
        device: ``auto`` or ``cpu``.
    """

    comparison: Comparison
    data: Sequence[Path]
    output: Path
    start: str | None = None
    base_model: str = "embedded"
    seeds: int = 1
    split: Split = "test"
    synthetic: bool = False
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Compared:
    """A finished comparison.

    Attributes:
        title: Of the table.
        target: ``score`` or ``attributes``.
        images, sources: That figures are of.
        left_out: Images of the split that lack a label of the target.
        machine: Processor or device that images a second were measured on.
        synthetic: Whether labels are synthetic.
        figures: One a variant.
    """

    title: str
    target: str
    images: int
    sources: int
    left_out: int
    machine: str
    synthetic: bool
    figures: Sequence[VariantFigures]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """The images that figures are of; mos on the scale of 0 to 10."""

    files: Sequence[Path]
    labels: Sequence[Annotation]
    left_out: int


def run_comparison(settings: CompareSettings) -> Compared:
    """Train and evaluate every variant with every seed.

    Raises:
        ConfigurationError: Wrong variants, data or base: found before the first training where possible. Or
            several processes: variants follow each other in one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError("compare runs in one process; train variants by themselves for several")
    configs = variant_configs(settings.comparison, settings.start)
    labelled = _labelled(settings, next(iter(configs.values())).score)
    settings.output.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[SeedRun]] = {name: [] for name in configs}
    # Seed by seed: a comparison that is cut short has all variants with fewer seeds.
    for number in range(settings.seeds):
        for name, config in configs.items():
            seeded = config.model_copy(update={"seed": config.seed + number})
            _LOG.info("%s, seed %d", name, seeded.seed)
            ask = settings.comparison.variants[name].ask or (config.default_template,)
            runs[name].append(_run(settings, name, seeded, ask, labelled))
    unit = {name: ScoreScale() for name in configs}
    sources = source_numbers(labelled.labels)
    found = compare_variants(runs, labelled.labels, unit, sources, settings.comparison.target)
    compared = Compared(
        title=settings.comparison.title,
        target=settings.comparison.target,
        images=len(labelled.labels),
        sources=len(set(sources.tolist())),
        left_out=labelled.left_out,
        machine=_machine(settings.device),
        synthetic=settings.synthetic,
        figures=found,
    )
    replace_text(settings.output / FIGURES_NAME, json.dumps(asdict(compared), indent=2) + "\n")
    return compared


def _labelled(settings: CompareSettings, scale: ScoreScale) -> _Labelled:
    problems: list[str] = []
    files: list[Path] = []
    labels: list[Annotation] = []
    left_out = 0
    wanted = ["mos"] if settings.comparison.target == "score" else [a.name for a in VOCABULARY.evaluated]
    for data in settings.data:
        try:
            annotations, facts = read_annotations(data, settings.split), read_facts(data)
        except ConfigurationError as error:
            problems += error.reasons
            continue
        native = facts.native if facts else (scale.native_low, scale.native_high)
        for annotation in annotations:
            if any(getattr(annotation, name) is None for name in wanted):
                left_out += 1
                continue
            files.append(image_file(data, annotation))
            labels.append(rescaled(annotation, native, (0.0, 10.0)))
    if not problems and len(labels) < FEWEST_IMAGES:
        problems.append(
            f"split {settings.split}: {len(labels)} images have every label; {FEWEST_IMAGES} are needed"
        )
    if problems:
        raise ConfigurationError(problems)
    return _Labelled(files, labels, left_out)


def _run(
    settings: CompareSettings, name: str, config: StageConfig, ask: Sequence[str], labelled: _Labelled
) -> SeedRun:
    adapter = settings.output / "runs" / f"{_slug(name)}-seed{config.seed}"
    if not adapter.exists():
        adapter.parent.mkdir(parents=True, exist_ok=True)
        run_training(
            RunSettings(
                config=config,
                data=settings.data,
                output=adapter,
                base_model=settings.base_model,
                name=adapter.name,
                description=f"{settings.comparison.title}: {name}",
                synthetic=settings.synthetic,
                device=settings.device,
            )
        )
    _refuse_another(settings, adapter, config)
    return _predicted(settings, adapter, config.seed, ask, labelled)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _refuse_another(settings: CompareSettings, adapter: Path, config: StageConfig) -> None:
    """An adapter that an earlier comparison left under the same name is not this variant."""
    try:
        said = json.loads((adapter / SUMMARY_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{adapter / SUMMARY_NAME}: {error}; remove {adapter}") from error
    wanted = {
        "configuration": ("config", config.model_dump(mode="json")),
        "data": ("data", [str(path) for path in settings.data]),
        "base model": ("base_model", settings.base_model),
    }
    for what, (name, value) in wanted.items():
        if said.get(name) != value:
            raise ConfigurationError(
                f"{adapter} was trained with another {what}; name another --output, or remove it"
            )


def _predicted(
    settings: CompareSettings, adapter: Path, seed: int, ask: Sequence[str], labelled: _Labelled
) -> SeedRun:
    """Read the predictions of an earlier process, or make them."""
    _, revision = read_manifest(adapter)
    asked = {
        "revision": revision,
        "ask": list(ask),
        "images": [[str(file.resolve()), file.stat().st_mtime_ns] for file in labelled.files],
        "contexts": [label.context for label in labelled.labels],
    }
    file = adapter.with_name(f"{adapter.name}.{_PREDICTIONS_NAME}")
    if file.exists():
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["asked"] == asked:
            return SeedRun(
                seed, [Prediction(**row) for row in content["predictions"]], content["images_per_s"]
            )
    predictions, seconds = _answers(settings, adapter, ask, labelled)
    images_per_s = len(predictions) / seconds
    content = {
        "asked": asked,
        "images_per_s": images_per_s,
        "predictions": [{k: v for k, v in asdict(one).items() if v is not None} for one in predictions],
    }
    replace_text(file, json.dumps(content) + "\n")
    return SeedRun(seed, predictions, images_per_s)


def _answers(
    settings: CompareSettings, adapter: Path, ask: Sequence[str], labelled: _Labelled
) -> tuple[list[Prediction], float]:
    """Predictions of every template asked, put together, and the seconds that they took."""
    contexts = [label.context for label in labelled.labels]
    together: list[Prediction] = []
    seconds = 0.0
    for template in ask:
        scorer = Scorer.load(
            adapter,
            base_model=settings.base_model,
            template=template,
            device=_serving_device(settings.device),
        )
        # The shared prefix, and whatever else the first images would pay for.
        score_images(scorer, labelled.files[:1], contexts[:1])
        started = time.monotonic()
        found = score_images(scorer, labelled.files, contexts).predictions
        seconds += time.monotonic() - started
        together = [_joined(*pair) for pair in zip(together, found, strict=True)] if together else found
    return together, seconds


def _joined(first: Prediction, second: Prediction) -> Prediction:
    """What the first does not say, the second does."""
    more = {
        name: getattr(second, name)
        for name in _FIELDS
        if getattr(first, name) is None and getattr(second, name) is not None
    }
    return replace(first, **more)


def _serving_device(device: str) -> str:
    return "cpu" if device == "cpu" else "auto"


def _machine(device: str) -> str:
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
