"""``python -m training evaluate``: an adapter against a labelled data set, and what was measured how."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from model.checks import checked_manifest
from model.scorer import Scorer
from model.templates import SCORE, answer_template
from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import AdapterManifest, ScoreScale
from schemas.records import Provenance
from training.annotation_files import image_file, read_annotations
from training.evaluate import FEWEST_IMAGES, evaluate_predictions
from training.evaluation import Evaluation
from training.evaluation_tables import evaluation_tables
from training.scoring import score_images

_LIBRARIES = ("torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What the command line chooses.

    Attributes:
        adapter: Its directory.
        data: Folder of annotations, or their file.
        base_model: Name or path of the base; None = the one that the manifest names.
        template: Answer template; None = the adapter's default.
        split: Which part of the data.
        mos_range: Native range of the data's ``mos``; None = the adapter's.
        with_context: Whether the model sees the images' contexts.
        limit: Only the first so many images; None = all.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    adapter: Path
    data: Path
    base_model: str | None = None
    template: str | None = None
    split: Split = "test"
    mos_range: tuple[float, float] | None = None
    with_context: bool = True
    limit: int | None = None
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What was measured, on what, and who answered.

    Attributes:
        provenance: Adapter, revision, base, template, decoder, device and number format.
        synthetic: Whether the adapter's labels were synthetic.
        data: The data set, as it was named.
        split: Which part of it.
        limit: Only the first so many of its images; None = all.
        with_context: Whether the model saw the images' contexts.
        mos_low, mos_high: Native range of its ``mos``.
        versions: Of Python and the libraries that compute.
        evaluation: The figures.
    """

    provenance: Provenance
    synthetic: bool
    data: str
    split: Split
    limit: int | None
    with_context: bool
    mos_low: float
    mos_high: float
    versions: dict[str, str]
    evaluation: Evaluation

    def to_json(self) -> str:
        """Everything, as one JSON object."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Everything that a person reads: who, on what, then the tables."""
        who = self.provenance
        first = f"the first {self.limit} images of " if self.limit is not None else ""
        context = "with" if self.with_context else "without"
        lines = [
            f"{who.adapter} ({who.adapter_revision[:12]}) on {who.base_model}, template {who.template}, "
            f"score read by {who.decoder}, {who.device}, {who.dtype}",
            f"{first}{self.data}, split {self.split}, {context} their contexts, "
            f"mos {self.mos_low:g}–{self.mos_high:g}",
        ]
        if self.synthetic:
            lines.append("**The adapter's labels are SYNTHETIC: it learnt them, and not human taste.**")
        return "\n\n".join([*lines, evaluation_tables(self.evaluation)])


def run_evaluation(settings: EvaluationSettings) -> EvaluationReport:
    """Score a data set's images and compare.

    Raises:
        ConfigurationError: With every reason found before the model is loaded: the adapter, its base, the
            data, or both together. Then for images that cannot be read, all of them.
    """
    manifest, annotations = _checked(settings)
    scale = _scale(settings, manifest)
    scorer = Scorer.load(
        settings.adapter,
        base_model=settings.base_model,
        template=settings.template,
        device=settings.device,
    )
    files = [image_file(settings.data, annotation) for annotation in annotations]
    contexts = [annotation.context if settings.with_context else None for annotation in annotations]
    scored = score_images(scorer, files, contexts)
    return EvaluationReport(
        provenance=scorer.provenance,
        synthetic=manifest.training.synthetic,
        data=str(settings.data),
        split=settings.split,
        limit=settings.limit,
        with_context=settings.with_context,
        mos_low=scale.native_low,
        mos_high=scale.native_high,
        versions={"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        evaluation=evaluate_predictions(
            scored.predictions, annotations, manifest.vocabulary, scale, scored.readings
        ),
    )


def _checked(settings: EvaluationSettings) -> tuple[AdapterManifest, list[Annotation]]:
    """Read adapter and data; say everything that is wrong with either."""
    problems: list[str] = []
    manifest = None
    annotations: list[Annotation] = []
    try:
        manifest = checked_manifest(settings.adapter, settings.template, settings.base_model).manifest
    except ConfigurationError as error:
        problems += error.reasons
    vocabulary = VOCABULARY if manifest is None else manifest.vocabulary
    try:
        annotations = read_annotations(settings.data, settings.split, vocabulary=vocabulary)
    except ConfigurationError as error:
        problems += error.reasons
    annotations = annotations[: settings.limit]
    if manifest is not None and annotations:
        problems += _label_problems(settings, manifest, annotations)
    if problems or manifest is None:
        raise ConfigurationError(problems)
    return manifest, annotations


def _label_problems(
    settings: EvaluationSettings, manifest: AdapterManifest, annotations: Sequence[Annotation]
) -> list[str]:
    """What of the labels the adapter's answers cannot be compared with."""
    name = settings.template or manifest.answer.default_template
    slots = {slot.name for slot in answer_template(name, manifest.vocabulary, manifest.score).slots}
    asked = slots & {SCORE, *[attribute.name for attribute in manifest.vocabulary.evaluated]}
    known = {target: _label_count(target, annotations) for target in asked}
    problems = []
    if max(known.values(), default=0) < FEWEST_IMAGES:
        problems.append(
            f"{settings.data}: no label that template {name!r} answers is on {FEWEST_IMAGES} images or more"
        )
    scale = _scale(settings, manifest)
    low, high = scale.native_low, scale.native_high
    outside = [a.image for a in annotations if a.mos is not None and not low <= a.mos <= high]
    if outside and SCORE in asked:
        problems.append(
            f"{settings.data}: mos outside {low:g}–{high:g} for {len(outside)} images, the first "
            f"{outside[0]}; --mos-range says which range the data has"
        )
    return problems


def _label_count(target: str, annotations: Sequence[Annotation]) -> int:
    field = "mos" if target == SCORE else target
    return sum(getattr(annotation, field) is not None for annotation in annotations)


def _scale(settings: EvaluationSettings, manifest: AdapterManifest) -> ScoreScale:
    if settings.mos_range is None:
        return manifest.score
    low, high = settings.mos_range
    return manifest.score.model_copy(update={"native_low": low, "native_high": high})
