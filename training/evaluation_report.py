"""What ``python -m training evaluate`` tells: who answered, on what, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from schemas.annotations import Split
from schemas.records import Provenance
from training.bootstrap import Estimate
from training.contexts import ContextChoice
from training.evaluate import SCORE
from training.evaluation import Evaluation, TargetEvaluation
from training.evaluation_tables import evaluation_tables, shown
from training.free_answers import WrittenAnswer
from training.scoring import ImageFailure
from training.tables import Table

SYNTHETIC = "The adapter's labels are SYNTHETIC: it learnt them, and not human taste."

_FAILURES_SHOWN = 5
_NONE = Estimate(None)
_CONTEXTS: Mapping[ContextChoice, str] = {
    "given": "with their contexts",
    "none": "without their contexts",
    "shuffled": "with one another's contexts",
    "all": "with their contexts, the score also without and with one another's",
}


@dataclass(frozen=True, slots=True)
class ImageAnswers:
    """What was written about one image, or about every frame of a video.

    Attributes:
        image: As its annotation names it.
        written: One answer, or one a frame.
    """

    image: str
    written: tuple[WrittenAnswer, ...]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What was measured, on what, and who answered.

    Attributes:
        provenance: Adapter, revision, base, template, decoder, device and number format.
        synthetic: Whether the adapter's labels were synthetic.
        data: The data set, as it was named.
        split: Which part of it.
        limit: Only the first so many of its images; None = all.
        context: Which contexts the model saw.
        mos_low, mos_high: Native range of its ``mos``.
        versions: Of Python and the libraries that compute.
        failures: Images that could not be read, and are in no figure.
        evaluation: The figures, of the other images.
        videos: How many of the images are videos.
        answers: What was written about every image that could be read; empty unless written freely.
    """

    provenance: Provenance
    synthetic: bool
    data: str
    split: Split
    limit: int | None
    context: ContextChoice
    mos_low: float
    mos_high: float
    versions: dict[str, str]
    failures: tuple[ImageFailure, ...]
    evaluation: Evaluation
    videos: int = 0
    answers: tuple[ImageAnswers, ...] = ()

    def to_markdown(self) -> str:
        """Everything that a person reads: who, on what, then the tables."""
        lines = [self.who, self.what, self.failed]
        if self.synthetic:
            lines.append(f"**{SYNTHETIC}**")
        return "\n\n".join([*lines, evaluation_tables(self.evaluation)])

    @property
    def who(self) -> str:
        """Who answered, in a line."""
        who = self.provenance
        how = "answers written freely" if self.answers else f"score read by {who.decoder}"
        revision = f" ({who.adapter_revision[:12]}) on {who.base_model}" if who.adapter_revision else ""
        return f"{self.subject}{revision}, template {who.template}, {how}, {who.device}, {who.dtype}"

    @property
    def subject(self) -> str:
        """What was evaluated: the adapter, or the base where there is none."""
        who = self.provenance
        return who.adapter if who.adapter_revision else f"{who.base_model} without adapter"

    @property
    def what(self) -> str:
        """What was asked, in a line."""
        first = f"the first {self.limit} images of " if self.limit is not None else ""
        videos = f"{self.videos} videos by one frame a second, " if self.videos else ""
        return (
            f"{first}{self.data}, split {self.split}, {videos}{_CONTEXTS[self.context]}, "
            f"mos {self.mos_low:g}–{self.mos_high:g}"
        )

    @property
    def failed(self) -> str:
        """How many images could not be read, with the first of them."""
        count = len(self.failures)
        said = f"Images that could not be read: {count} of {count + self.evaluation.images}"
        if not count:
            return f"{said}."
        named = "; ".join(f"{one.image}: {one.reason}" for one in self.failures[:_FAILURES_SHOWN])
        more = f"; and {count - _FAILURES_SHOWN} more" if count > _FAILURES_SHOWN else ""
        return f"{said}, left out of every figure: {named}{more}"


def reports_json(reports: Sequence[EvaluationReport]) -> str:
    """Everything as JSON: one object for one data set, a list of such for several."""
    content = [asdict(report) for report in reports]
    only = content[0] if len(content) == 1 else content
    return json.dumps(only, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def reports_markdown(reports: Sequence[EvaluationReport]) -> str:
    """Everything that a person reads; for several data sets first one table with a row each."""
    if len(reports) == 1:
        return reports[0].to_markdown()
    parts = [str(data_sets_table(reports))]
    for report in reports:
        parts += [f"## {report.data}", report.to_markdown()]
    return "\n\n".join(parts)


def data_sets_table(reports: Sequence[EvaluationReport]) -> Table:
    """The score's agreement, one row a data set."""
    free = any(report.evaluation.parsing is not None for report in reports)
    parsed = ("not parsed",) if free else ()
    figure_names = ("SRCC", "PLCC", "PLCC after the 4-parameter logistic", "RMSE of 0–10")
    rows = []
    for report in reports:
        score = _score(report.evaluation)
        figures = [_NONE] * 4
        if score is not None:
            agreed = score.decided
            figures = [agreed.srcc, agreed.plcc, score.plcc_logistic or _NONE, agreed.rmse]
        counts = (score.images, score.sources) if score is not None else (0, 0)
        unread = (str(score.unread if score is not None and score.unread is not None else 0),) if free else ()
        names = (report.data, *map(str, counts), str(len(report.failures)), *unread)
        rows.append((*names, *map(shown, figures)))
    head = ("data set", "n", "sources", "failures", *parsed, *figure_names)
    return Table("The score on every data set", head, tuple(rows))


def _score(evaluation: Evaluation) -> TargetEvaluation | None:
    return next((target for target in evaluation.targets if target.target == SCORE), None)
