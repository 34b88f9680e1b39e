"""``python -m training evaluate``: an adapter, or an untuned base, against labelled data sets."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from model.scorer import Scorer
from model.templates import SCORE, Decimal
from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from training.annotation_files import image_file, read_annotations
from training.context_evaluation import evaluate_contexts
from training.contexts import (
    ContextChoice,
    conversation_context_problems,
    data_context_problems,
    shown_contexts,
)
from training.dataset_file import read_facts
from training.evaluate import FEWEST_IMAGES, evaluate_predictions
from training.evaluation_report import EvaluationReport, ImageAnswers
from training.free_generation import MAX_NEW_TOKENS, FreeWriter, WrittenImages, write_about_images
from training.layouts.video import is_video
from training.optional_modules import optional_module
from training.respondent import Respondent, adapter_respondent, untuned_respondent
from training.scoring import ScoredImages, score_images

Decoding = Literal["slots", "generate"]
_LIBRARIES = ("torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What the command line chooses.

    Attributes:
        adapter: Its directory; None = the base as it is, which must be named, and can only ``generate``.
        data: Data sets: folders of annotations, or their files.
        base_model: Name or path of the base; None = the one that the manifest names.
        template: Answer template; None = the adapter's default.
        split: Which part of the data.
        mos_ranges: Native range of the data's ``mos``: one for all data sets, or one each; empty = as
            each one's dataset.json says, else the adapter's.
        context: Which contexts the model sees.
        limit: Only the first so many images of each data set; None = all.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        allow_failures: Whether images that cannot be read are counted and left out.
        decoder: ``slots``: as serving decodes; ``generate``: answers are written freely, and parsed.
        max_new_tokens: Longest answer of ``generate``.
    """

    adapter: Path | None
    data: tuple[Path, ...]
    base_model: str | None = None
    template: str | None = None
    split: Split = "test"
    mos_ranges: tuple[tuple[float, float], ...] = ()
    context: ContextChoice = "given"
    limit: int | None = None
    device: str = "auto"
    allow_failures: bool = False
    decoder: Decoding = "slots"
    max_new_tokens: int = MAX_NEW_TOKENS


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
    respondent, data_sets = _checked(settings)
    loaded: Scorer | FreeWriter
    if settings.decoder == "generate":
        loaded = FreeWriter.load(respondent, device=settings.device, max_new_tokens=settings.max_new_tokens)
    else:
        loaded = Scorer.load(
            respondent.adapter,
            base_model=settings.base_model,
            template=settings.template,
            device=settings.device,
        )
    return [_report(settings, respondent, loaded, one) for one in data_sets]


def _report(
    settings: EvaluationSettings, respondent: Respondent, loaded: Scorer | FreeWriter, data: _DataSet
) -> EvaluationReport:
    files = [image_file(data.path, annotation) for annotation in data.annotations]
    contexts = shown_contexts(data.annotations, "given" if settings.context == "all" else settings.context)
    scored, written = _answered(loaded, files, contexts, allow_failures=settings.allow_failures)
    labels = [data.annotations[row] for row in scored.rows]
    evaluation = evaluate_predictions(
        scored.predictions,
        labels,
        respondent.vocabulary,
        data.scale,
        scored.readings,
        parsing=written.parsing if written else None,
    )
    if settings.context == "all":
        compared = evaluate_contexts(
            lambda some, shown: _answered(loaded, some, shown)[0].predictions,
            files,
            data.annotations,
            scored,
            data.scale,
        )
        evaluation = replace(evaluation, contexts=compared)
    return EvaluationReport(
        provenance=loaded.provenance,
        synthetic=respondent.synthetic,
        data=str(data.path),
        split=settings.split,
        limit=settings.limit,
        context=settings.context,
        mos_low=data.scale.native_low,
        mos_high=data.scale.native_high,
        versions={"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        failures=scored.failures,
        evaluation=evaluation,
        videos=sum(is_video(annotation.image) for annotation in data.annotations),
        answers=tuple(
            ImageAnswers(label.image, answers)
            for label, answers in zip(labels, written.answers if written else (), strict=False)
        ),
    )


def _answered(
    loaded: Scorer | FreeWriter,
    files: Sequence[Path],
    contexts: Sequence[str | None],
    *,
    allow_failures: bool = False,
) -> tuple[ScoredImages, WrittenImages | None]:
    """What was said about images, and what was written, where answers are written freely."""
    if isinstance(loaded, Scorer):
        return score_images(loaded, files, contexts, allow_failures=allow_failures), None
    written = write_about_images(loaded, files, contexts, allow_failures=allow_failures)
    return written.scored, written


def _checked(settings: EvaluationSettings) -> tuple[Respondent, list[_DataSet]]:
    """Find who answers, and read the data; say everything that is wrong with any of them."""
    problems: list[str] = []
    respondent = None
    data_sets: list[_DataSet] = []
    try:
        respondent = _respondent(settings)
    except ConfigurationError as error:
        problems += error.reasons
    if respondent is not None:
        problems += conversation_context_problems(
            settings.context, respondent.conversation, respondent.template
        )
        problems += _head_problems(settings.decoder, respondent)
    vocabulary = VOCABULARY if respondent is None else respondent.vocabulary
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
        problems += data_context_problems(settings.context, path, annotations, FEWEST_IMAGES)
        problems += _video_problems(path, annotations)
        if respondent is not None:
            stated = facts.native if facts else None
            scale = _scale(respondent.score, ranges[place] if ranges else stated)
            data_sets.append(_DataSet(path, annotations, scale))
            problems += _label_problems(respondent, data_sets[-1])
    if problems or respondent is None:
        raise ConfigurationError(problems)
    return respondent, data_sets


def _respondent(settings: EvaluationSettings) -> Respondent:
    if settings.adapter is not None:
        return adapter_respondent(settings.adapter, settings.template, settings.base_model)
    if settings.base_model is None or settings.decoder != "generate":
        raise ConfigurationError("without an adapter: name the base model, and have it generate its answers")
    return untuned_respondent(settings.base_model, settings.template)


def _head_problems(decoder: Decoding, respondent: Respondent) -> list[str]:
    scores = [slot for slot in respondent.template.slots if slot.name == SCORE]
    if decoder == "slots" or all(isinstance(slot, Decimal) for slot in scores):
        return []
    return [f"--decoder generate: {respondent.name} does not write its score in digits"]


def _video_problems(path: Path, annotations: Sequence[Annotation]) -> list[str]:
    """Whether there are videos and nothing to read them with."""
    if any(is_video(annotation.image) for annotation in annotations):
        try:
            optional_module("av", "realqa-beam[video]", f"{path}: reading videos")
        except ConfigurationError as error:
            return list(error.reasons)
    return []


def _label_problems(respondent: Respondent, data: _DataSet) -> list[str]:
    """What of the labels the answers cannot be compared with."""
    slots = {slot.name for slot in respondent.template.slots}
    asked = slots & {attribute.name for attribute in respondent.vocabulary.evaluated}
    # Opinion is comparable with whatever is answered: an attribute is correlated with it too.
    known = [_label_count(label, data.annotations) for label in ("mos", *asked)]
    problems = []
    if max(known) < FEWEST_IMAGES:
        problems.append(
            f"{data.path}: neither mos nor any label that template {respondent.template.name!r} answers "
            f"is on {FEWEST_IMAGES} images or more"
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
