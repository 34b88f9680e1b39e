"""``python -m training composite``: attributes of labelled images, weighted into a copy of the adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.torch import load_file

from model.adapter_config import ADAPTER_CONFIG_NAME, WEIGHTS_NAME
from model.adapters import read_manifest, save_adapter
from model.checks import checked_manifest
from model.scorer import Scorer
from model.templates import answer_template
from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY, Vocabulary
from schemas.errors import ConfigurationError
from schemas.manifest import AdapterManifest, EvaluationResult
from training.annotation_files import image_file, read_annotations
from training.composite import FOLDS, MOST_COMPONENTS, CompositeFit, fit_composite
from training.evaluate import source_numbers
from training.figures import Numbers
from training.mos_correlation import COMPOSITE
from training.prediction_files import read_expected_codes
from training.scoring import ImageFailure, score_images

Feedback = Literal["mos", "composition", "eye_catching"]

_Codes = list[dict[str, float] | None]  # by attribute, one an image; None where it failed


@dataclass(frozen=True, slots=True)
class CompositeSettings:
    """What the command line chooses.

    Attributes:
        adapter: Directory of the adapter whose attributes are weighted.
        data: Folder of annotations, or their file.
        output: Where the copy with weights goes; new or empty.
        feedback: The label that the weights are fitted to.
        predictions: What a pipeline run wrote (a Parquet file, or its output folder); None = the adapter
            scores the images here.
        base_model: Name or path of the base; None = the one that the manifest names.
        template: Answer template that gives the attributes; None = the adapter's default, or the one that
            the predictions hold.
        split: Which part of the data.
        max_components, folds: See ``fit_composite``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        allow_failures: Whether images without attributes are counted and left out.
    """

    adapter: Path
    data: Path
    output: Path
    feedback: Feedback = "mos"
    predictions: Path | None = None
    base_model: str | None = None
    template: str | None = None
    split: Split = "train"
    max_components: int = MOST_COMPONENTS
    folds: int = FOLDS
    device: str = "auto"
    allow_failures: bool = False


@dataclass(frozen=True, slots=True)
class CompositeReport:
    """What was fitted to what.

    Attributes:
        fit: The weights and their figures.
        feedback: The label that they were fitted to.
        without_feedback: Images without that label: left out.
        failures: Images without attributes: left out.
        templates: The adapter's answer templates that ask for every weighted attribute; with others the
            composite score is null.
        manifest: Of the adapter that was written.
    """

    fit: CompositeFit
    feedback: Feedback
    without_feedback: int
    failures: tuple[ImageFailure, ...]
    templates: tuple[str, ...]
    manifest: AdapterManifest


def run_composite(settings: CompositeSettings) -> CompositeReport:
    """Fit composite weights, and write a copy of the adapter that holds them: complete, or not at all.

    Raises:
        ConfigurationError: With every reason found before the model is loaded; then for images without
            attributes, all of them, unless failures are allowed; then for numbers that no weights can be
            fitted to.
    """
    manifest, annotations = _checked(settings)
    labelled = [one for one in annotations if getattr(one, settings.feedback) is not None]
    codes, failures = _codes(settings, manifest, labelled)
    rows = [row for row, found in enumerate(codes) if found is not None]
    fit = fit_composite(
        _columns([codes[row] or {} for row in rows], manifest.vocabulary),
        np.array([getattr(labelled[row], settings.feedback) for row in rows], dtype=float),
        source_numbers([labelled[row] for row in rows]),
        max_components=settings.max_components,
        folds=settings.folds,
    )
    return CompositeReport(
        fit=fit,
        feedback=settings.feedback,
        without_feedback=len(annotations) - len(labelled),
        failures=failures,
        templates=tuple(
            name for name in manifest.answer.templates if _answers(name, manifest, set(fit.weights.weights))
        ),
        manifest=_write_copy(settings, manifest, fit),
    )


def _checked(settings: CompositeSettings) -> tuple[AdapterManifest, list[Annotation]]:
    """Read adapter and data; say everything that is wrong with either."""
    problems: list[str] = []
    output = settings.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        problems.append(f"{output} exists already; an adapter is never changed in place")
    manifest = None
    annotations: list[Annotation] = []
    try:
        needs_base = settings.predictions is None
        checked = checked_manifest(
            settings.adapter, settings.template, settings.base_model, needs_base=needs_base
        )
        manifest = checked.manifest
    except ConfigurationError as error:
        problems += error.reasons
    try:
        vocabulary = VOCABULARY if manifest is None else manifest.vocabulary
        annotations = read_annotations(settings.data, settings.split, vocabulary=vocabulary)
    except ConfigurationError as error:
        problems += error.reasons
    if annotations and all(getattr(one, settings.feedback) is None for one in annotations):
        problems.append(
            f"{settings.data}: no image of split {settings.split!r} has {settings.feedback}, the feedback"
        )
    if manifest is not None and settings.predictions is None:
        name = settings.template or manifest.answer.default_template
        if not any(_answers(name, manifest, {one.name}) for one in manifest.vocabulary.evaluated):
            problems.append(f"template {name!r} asks for no attribute that could be weighted")
    if problems or manifest is None:
        raise ConfigurationError(problems)
    return manifest, annotations


def _answers(template: str, manifest: AdapterManifest, attributes: set[str]) -> bool:
    slots = answer_template(template, manifest.vocabulary, manifest.score).slots
    return attributes <= {slot.name for slot in slots}


def _codes(
    settings: CompositeSettings, manifest: AdapterManifest, annotations: Sequence[Annotation]
) -> tuple[_Codes, tuple[ImageFailure, ...]]:
    """The expected codes of every image, and who has none."""
    files = [image_file(settings.data, annotation) for annotation in annotations]
    if settings.predictions is None:
        return _scored_codes(settings, manifest.vocabulary, files, [one.context for one in annotations])
    _, revision = read_manifest(settings.adapter)
    codes = read_expected_codes(settings.predictions, files, revision, settings.template, manifest.vocabulary)
    failures = tuple(
        ImageFailure(str(file), f"{settings.predictions} holds no score of it")
        for file, found in zip(files, codes, strict=True)
        if found is None
    )
    if failures and (not settings.allow_failures or len(failures) == len(files)):
        raise ConfigurationError(
            f"{settings.predictions}: holds no score of {len(failures)} of {len(files)} images, the first "
            f"{failures[0].image}"
        )
    return codes, failures


def _scored_codes(
    settings: CompositeSettings, vocabulary: Vocabulary, files: Sequence[Path], contexts: Sequence[str | None]
) -> tuple[_Codes, tuple[ImageFailure, ...]]:
    scorer = Scorer.load(
        settings.adapter,
        base_model=settings.base_model,
        template=settings.template,
        device=settings.device,
    )
    scored = score_images(scorer, files, contexts, allow_failures=settings.allow_failures)
    codes: _Codes = [None] * len(files)
    for row, said in zip(scored.rows, scored.predictions, strict=True):
        expected = {one.name: getattr(said, f"{one.name}_expected") for one in vocabulary.evaluated}
        codes[row] = {name: code for name, code in expected.items() if code is not None}
    return codes, scored.failures


def _columns(codes: Sequence[Mapping[str, float]], vocabulary: Vocabulary) -> dict[str, Numbers]:
    """Numbers by attribute, for the attributes that were asked for; a number that lacks is NaN."""
    return {
        one.name: np.array([found.get(one.name, np.nan) for found in codes])
        for one in vocabulary.evaluated
        if any(one.name in found for found in codes)
    }


def _write_copy(settings: CompositeSettings, manifest: AdapterManifest, fit: CompositeFit) -> AdapterManifest:
    """Write the adapter once more, with weights and what they are worth, sealed anew."""
    worth = EvaluationResult(
        dataset=f"{settings.data.name}, {settings.split}, {settings.feedback}, cross-validated",
        target=COMPOSITE,
        n=fit.images,
        srcc=_rounded(fit.chosen.srcc.value),
        plcc=_rounded(fit.chosen.plcc.value),
    )
    others = [one for one in manifest.evaluation if one.target != COMPOSITE]
    changes = {"composite": fit.weights, "evaluation": (*others, worth), "files": {}}
    config = json.loads((settings.adapter / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
    state = load_file(settings.adapter / WEIGHTS_NAME)
    return save_adapter(settings.output, state, config, manifest.model_copy(update=changes))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
