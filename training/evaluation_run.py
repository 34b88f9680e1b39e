"""``python -m training evaluate``: an adapter against labelled data sets."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from model.checks import checked_manifest
from model.scorer import Scorer
from model.templates import SCORE, answer_template
from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import AdapterManifest, ScoreScale
from training.annotation_files import image_file, read_annotations
from training.dataset_file import read_facts
from training.evaluate import FEWEST_IMAGES, evaluate_predictions
from training.evaluation_report import EvaluationReport
from training.scoring import score_images

_LIBRARIES = ("torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What the command line chooses.

    Attributes:
        adapter: Its directory.
        data: Data sets: folders of annotations, or their files.
        base_model: Name or path of the base; None = the one that the manifest names.
        template: Answer template; None = the adapter's default.
        split: Which part of the data.
        mos_ranges: Native range of the data's ``mos``: one for all data sets, or one each; empty = as
            each one's dataset.json says, else the adapter's.
        with_context: Whether the model sees the images' contexts.
        limit: Only the first so many images of each data set; None = all.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        allow_failures: Whether images that cannot be read are counted and left out.
    """

    adapter: Path
    data: tuple[Path, ...]
    base_model: str | None = None
    template: str | None = None
    split: Split = "test"
    mos_ranges: tuple[tuple[float, float], ...] = ()
    with_context: bool = True
    limit: int | None = None
    device: str = "auto"
    allow_failures: bool = False


@dataclass(frozen=True, slots=True)
class _DataSet:
    """One data set, read and checked."""

    path: Path
    annotations: list[Annotation]
    scale: ScoreScale


def run_evaluations(settings: EvaluationSettings) -> list[EvaluationReport]:
    """Score the images of every data set and compare.

    Returns:
        One report a data set, in their order.

    Raises:
        ConfigurationError: With every reason found before the model is loaded: the adapter, its base, the
            data, or both together. Then for images that cannot be read, all of a data set's, unless failures
            are allowed and some images can be read.
    """
    manifest, data_sets = _checked(settings)
    scorer = Scorer.load(
        settings.adapter,
        base_model=settings.base_model,
        template=settings.template,
        device=settings.device,
    )
    return [_report(settings, manifest, scorer, one) for one in data_sets]


def _report(
    settings: EvaluationSettings, manifest: AdapterManifest, scorer: Scorer, data: _DataSet
) -> EvaluationReport:
    files = [image_file(data.path, annotation) for annotation in data.annotations]
    contexts = [annotation.context if settings.with_context else None for annotation in data.annotations]
    scored = score_images(scorer, files, contexts, allow_failures=settings.allow_failures)
    labels = [data.annotations[row] for row in scored.rows]
    return EvaluationReport(
        provenance=scorer.provenance,
        synthetic=manifest.training.synthetic,
        data=str(data.path),
        split=settings.split,
        limit=settings.limit,
        with_context=settings.with_context,
        mos_low=data.scale.native_low,
        mos_high=data.scale.native_high,
        versions={"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        failures=scored.failures,
        evaluation=evaluate_predictions(
            scored.predictions, labels, manifest.vocabulary, data.scale, scored.readings
        ),
    )


def _checked(settings: EvaluationSettings) -> tuple[AdapterManifest, list[_DataSet]]:
    """Read adapter and data; say everything that is wrong with any of them."""
    problems: list[str] = []
    manifest = None
    data_sets: list[_DataSet] = []
    try:
        manifest = checked_manifest(settings.adapter, settings.template, settings.base_model).manifest
    except ConfigurationError as error:
        problems += error.reasons
    vocabulary = VOCABULARY if manifest is None else manifest.vocabulary
    ranges = (
        settings.mos_ranges if len(settings.mos_ranges) != 1 else settings.mos_ranges * len(settings.data)
    )
    for place, path in enumerate(settings.data):
        try:
            annotations = read_annotations(path, settings.split, vocabulary=vocabulary)[: settings.limit]
            facts = read_facts(path)
        except ConfigurationError as error:
            problems += error.reasons
            continue
        if manifest is not None:
            stated = facts.native if facts else None
            scale = _scale(manifest.score, ranges[place] if ranges else stated)
            data_sets.append(_DataSet(path, annotations, scale))
            problems += _label_problems(settings.template, manifest, data_sets[-1])
    if problems or manifest is None:
        raise ConfigurationError(problems)
    return manifest, data_sets


def _label_problems(template: str | None, manifest: AdapterManifest, data: _DataSet) -> list[str]:
    """What of the labels the adapter's answers cannot be compared with."""
    name = template or manifest.answer.default_template
    slots = {slot.name for slot in answer_template(name, manifest.vocabulary, manifest.score).slots}
    asked = slots & {attribute.name for attribute in manifest.vocabulary.evaluated}
    # Opinion is comparable with whatever is answered: an attribute is correlated with it too.
    known = [_label_count(label, data.annotations) for label in ("mos", *asked)]
    problems = []
    if max(known) < FEWEST_IMAGES:
        problems.append(
            f"{data.path}: neither mos nor any label that template {name!r} answers is on {FEWEST_IMAGES} "
            "images or more"
        )
    low, high = data.scale.native_low, data.scale.native_high
    outside = [a.image for a in data.annotations if a.mos is not None and not low <= a.mos <= high]
    if outside and SCORE in slots:
        problems.append(
            f"{data.path}: mos outside {low:g}–{high:g} for {len(outside)} images, the first "
            f"{outside[0]}; --mos-range says which range the data has"
        )
    return problems


def _label_count(label: str, annotations: Sequence[Annotation]) -> int:
    return sum(getattr(annotation, label) is not None for annotation in annotations)


def _scale(own: ScoreScale, mos_range: tuple[float, float] | None) -> ScoreScale:
    if mos_range is None:
        return own
    return own.model_copy(update={"native_low": mos_range[0], "native_high": mos_range[1]})
