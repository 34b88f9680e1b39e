"""Labels from a model: an adapter names the attributes of images that have none, for the next stage.

RealQA labels public data sets with its stage-1 adapter before it trains stage 2 (arXiv 2503.06141).
Labels that an image has already stay as they are: people's words count more.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model.adapters import read_manifest
from model.scorer import Scorer
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.records import Prediction
from training.annotation_files import image_file, read_annotations, write_annotations
from training.dataset_file import DatasetFacts, read_facts, write_facts
from training.score_ranges import ScoreRange
from training.scoring import score_images
from training.text_files import replace_text

_AT_A_TIME = 64
"""Images between two lines that a killed run goes on from."""
_WITHOUT_MOS: ScoreRange = (0.0, 10.0)
_RUN_NAME, _DONE_NAME = "run.json", "labelled.jsonl"


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """What the command line chooses.

    Attributes:
        adapter: Directory of the adapter that names attributes.
        data: Folder with ``annotations.jsonl`` and images, or such a file; all splits are labelled.
        output: Folder of the labelled data set; new. Its images are the old ones, by absolute path.
        base_model: Name or path of the base; None = as the adapter says.
        template: Answer template; None = the adapter's own.
        mos_range: Range of mos; None = as dataset.json beside the annotations says.
        device: auto, cpu, cuda or cuda:N.
    """

    adapter: Path
    data: Path
    output: Path
    base_model: str | None = None
    template: str | None = None
    mos_range: ScoreRange | None = None
    device: str = "auto"


def label_dataset(settings: LabelSettings) -> int:
    """Label a data set, or go on labelling it; the output appears complete, or not at all.

    Returns:
        Number of images that got a label.

    Raises:
        ConfigurationError: Wrong data or adapter, images that cannot be read, the output exists, or what an
            earlier run left beside it is of another adapter or other data.
    """
    if settings.output.exists():
        raise ConfigurationError(f"{settings.output} exists already")
    annotations = [_absolute(settings.data, found) for found in read_annotations(settings.data)]
    _, revision = read_manifest(settings.adapter)
    facts = _facts(settings, annotations, revision)
    work = settings.output.parent / f".{settings.output.name}.labelling"
    run = {"adapter": revision, "data": str(settings.data.resolve()), "images": len(annotations)}
    _claim(work, run)
    labelled = list(_done(work / _DONE_NAME, annotations))
    if len(labelled) < len(annotations):
        scorer = Scorer.load(
            settings.adapter,
            base_model=settings.base_model,
            template=settings.template,
            device=settings.device,
        )
        for found in _label(scorer, annotations[len(labelled) :]):
            _append(work / _DONE_NAME, found)
            labelled += found
    write_annotations(work, labelled)
    write_facts(work, facts)
    for name in (_RUN_NAME, _DONE_NAME):
        (work / name).unlink(missing_ok=True)
    os.replace(work, settings.output)
    return sum(new != old for new, old in zip(labelled, annotations, strict=True))


def with_labels(annotation: Annotation, prediction: Prediction) -> Annotation:
    """Fill in the evaluated attributes that an annotation lacks."""
    missing = {
        attribute.name: getattr(prediction, attribute.name)
        for attribute in VOCABULARY.evaluated
        if getattr(annotation, attribute.name) is None
    }
    return annotation.model_copy(update=missing)


def _label(scorer: Scorer, annotations: Sequence[Annotation]) -> Iterator[list[Annotation]]:
    for start in range(0, len(annotations), _AT_A_TIME):
        some = annotations[start : start + _AT_A_TIME]
        scored = score_images(scorer, [Path(one.image) for one in some], [one.context for one in some])
        yield [with_labels(one, said) for one, said in zip(some, scored.predictions, strict=True)]


def _absolute(data: Path, annotation: Annotation) -> Annotation:
    return annotation.model_copy(update={"image": str(image_file(data, annotation).resolve())})


def _facts(settings: LabelSettings, annotations: Sequence[Annotation], revision: str) -> DatasetFacts:
    facts = read_facts(settings.data)
    low, high = settings.mos_range or (facts.native if facts else _WITHOUT_MOS)
    if settings.mos_range is None and facts is None and any(one.mos is not None for one in annotations):
        raise ConfigurationError(
            f"{settings.data}: no dataset.json says which range mos is in; --mos-range does"
        )
    known = facts or DatasetFacts(name=settings.data.name, layout="own", native_low=low, native_high=high)
    changed = {"native_low": low, "native_high": high, "labelled_by": revision}
    return known.model_copy(update=changed)


def _claim(work: Path, run: dict[str, object]) -> None:
    """Refuse what another run left; otherwise the folder is this run's from here on."""
    file = work / _RUN_NAME
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        shutil.rmtree(work, ignore_errors=True)  # killed before its first line: nothing to go on from
    else:
        if found != run:
            raise ConfigurationError(
                f"{work} holds labels of another adapter or other data; remove it, or name another output"
            )
        return
    work.mkdir(parents=True)
    replace_text(file, json.dumps(run) + "\n")


def _done(file: Path, annotations: Sequence[Annotation]) -> Iterator[Annotation]:
    """What a killed run had labelled; a line that it was writing when it died is cut off."""
    try:
        content = file.read_bytes()
    except OSError:
        return
    whole = content[: content.rfind(b"\n") + 1]
    with file.open("r+b") as half:
        half.truncate(len(whole))
    for line, annotation in zip(whole.splitlines(), annotations, strict=False):
        try:
            found = Annotation.model_validate_json(line)
        except ValidationError as error:
            raise ConfigurationError(f"{file} is damaged; remove its folder") from error
        if found.image != annotation.image:
            raise ConfigurationError(f"{file} is of other data; remove its folder")
        yield found


def _append(file: Path, labelled: Sequence[Annotation]) -> None:
    lines = "".join(one.model_dump_json(exclude_none=True) + "\n" for one in labelled)
    with file.open("a", encoding="utf-8") as end:
        end.write(lines)
        end.flush()
        os.fsync(end.fileno())
