"""What an evaluation holds: figures with their intervals by target, deviation and decoder; parse failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.manifest import Decoder, EvaluationResult
from training.bootstrap import RESAMPLES, Estimate
from training.contexts import Context

FailureReason = Literal["missing", "not_allowed", "out_of_range"]
"""Why a value cannot be read out of a freely written answer: nothing names it; what stands there is none of
the allowed values; it is a number beyond its range."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How predicted numbers follow true ones; RMSE in codes, or in points of 0–10 for the score."""

    srcc: Estimate
    plcc: Estimate
    rmse: Estimate


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images whose confidence lies in one bin, open below and closed above.

    Attributes:
        low, high: Ends of the bin.
        images: How many; a bin without any is left out.
        confidence: Their mean confidence.
        accuracy: The share of them whose decided label is the true one.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Which label was decided where which one is true.

    Attributes:
        labels: Of the vocabulary, in its order.
        counts: Images; one row a true label, one column a decided one.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """How decided labels, not codes, match the true ones.

    Attributes:
        accuracy: Share of images whose decided label is the true one.
        majority_label: The most frequent true label of these images.
        majority_accuracy: What saying it of every image would score.
        ece: Expected calibration error of the confidences (``training.figures.ece``); None without them.
        ece_if_calibrated: The ECE to expect by chance if the confidences were right.
        confusion: Decided against true labels; None where it was not asked for.
        reliability: Accuracy by confidence; empty without confidences.
    """

    accuracy: Estimate
    majority_label: str
    majority_accuracy: float
    ece: float | None
    ece_if_calibrated: float | None
    confusion: ConfusionMatrix | None = None
    reliability: tuple[ReliabilityBin, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetEvaluation:
    """One target.

    Attributes:
        target: ``score`` or an attribute's name.
        images: Images that have both a prediction and a label.
        sources: Sources of these images.
        decided: Of the decided value; the score as its decoder reads it. Without values where fewer than
            three images have a prediction.
        expected: Of the expected code; None for the score, and where predictions carry none.
        labels: None for the score.
        plcc_logistic: Of the score after VQEG's 4-parameter logistic, without a value where that does not
            fit (``training.logistic``). The curve is fitted once, to all the images: the interval does not
            hold what the fit itself owes to chance. None for attributes.
        unread: Labelled images whose freely written answer holds no value of the target that can be read;
            they are in no figure. None where answers were not written freely.
    """

    target: str
    images: int
    sources: int
    decided: Agreement
    expected: Agreement | None
    labels: LabelAgreement | None
    plcc_logistic: Estimate | None = None
    unread: int | None = None


@dataclass(frozen=True, slots=True)
class MosCorrelation:
    """How one predicted number follows the mean opinion score (RealQA, Figure 2).

    Attributes:
        predicted: ``composite_score`` or an attribute's name.
        images, sources: That have both.
        srcc: Of the attribute's expected code, of its decided code where predictions carry no expected one.
    """

    predicted: str
    images: int
    sources: int
    srcc: Estimate


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """One image in the scatter plot; numbers in points of 0–10.

    Attributes:
        image: As its annotation names it.
        mos: Its mean opinion score.
        score: The predicted one.
        score_std: Its standard deviation; None where predictions carry none.
    """

    image: str
    mos: float
    score: float
    score_std: float | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many true scores lie within so many ``score_std`` of ``score``.

    Attributes:
        deviations: 1 or 2.
        share: Of the images, on the scale of 0 to 10, both ends included.
        gaussian: The share if errors were Gaussian with exactly that deviation.
    """

    deviations: int
    share: Estimate
    gaussian: float


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """Figures of the score as one decoder reads it, in points of 0–10; ``mean_error`` is predicted − true."""

    srcc: Estimate
    plcc: Estimate
    rmse: Estimate
    mean_error: Estimate


@dataclass(frozen=True, slots=True)
class DecoderEvaluation:
    """One way to read the score.

    Attributes:
        decoder: Which.
        figures: Of its readings.
        difference: Its figures − those of the first decoder, on the same resamples; None for that one.
    """

    decoder: Decoder
    figures: ScoreFigures
    difference: ScoreFigures | None


@dataclass(frozen=True, slots=True)
class ContextEvaluation:
    """The score of some images where the model is shown one kind of context.

    Attributes:
        group: Which images: ``all``, or those ``with a context``.
        images, sources: How many they are.
        context: What was shown.
        figures: Of the score.
        difference: Its figures − those of ``none``, on the same resamples; None for that one.
    """

    group: str
    images: int
    sources: int
    context: Context
    figures: ScoreFigures
    difference: ScoreFigures | None


@dataclass(frozen=True, slots=True)
class ParsedTarget:
    """Answers without a value of one target, by reason (``FailureReason``)."""

    target: str
    missing: int
    not_allowed: int
    out_of_range: int

    @property
    def failed(self) -> int:
        """Answers without a value."""
        return self.missing + self.not_allowed + self.out_of_range


@dataclass(frozen=True, slots=True)
class Parsing:
    """How far freely written answers could be read.

    Attributes:
        answers: One an image, or one a frame of a video; labels do not matter.
        failed: Answers that lack a value of some target.
        cut_off: Answers that did not end by themselves.
        limit_tokens: Where those were cut off.
        targets: Everything that was asked for.
    """

    answers: int
    failed: int
    cut_off: int
    limit_tokens: int
    targets: tuple[ParsedTarget, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured on one set of images.

    Attributes:
        images: Number of images.
        sources: Number of sources; an image without one stands for itself.
        targets: The score first, then the attributes; those with fewer than three labelled predictions are
            left out, but for freely written answers: of these those with fewer than three labels.
        coverage: Of the score's deviation; empty where not every score has one.
        decoders: Ways to read the score; empty where no readings were given.
        seed, resamples: Of the intervals.
        mos_correlations: Of the composite score and every attribute; empty without ``mos``.
        points: Of the score; empty without scores.
        contexts: The score by context shown; empty where contexts were not compared.
        parsing: Of freely written answers; None where answers were decoded by slots, which cannot fail.
    """

    images: int
    sources: int
    targets: tuple[TargetEvaluation, ...]
    coverage: tuple[Coverage, ...]
    decoders: tuple[DecoderEvaluation, ...]
    seed: int
    resamples: int = RESAMPLES
    mos_correlations: tuple[MosCorrelation, ...] = ()
    points: tuple[ScorePoint, ...] = ()
    contexts: tuple[ContextEvaluation, ...] = ()
    parsing: Parsing | None = None

    def results(self, dataset: str) -> tuple[EvaluationResult, ...]:
        """The figures that an adapter's manifest holds: correlations of the decided values."""
        return tuple(
            _manifest_result(dataset, t.target, t.images, t.decided.srcc.value, t.decided.plcc.value)
            for t in self.targets
            if t.images
        )


def _manifest_result(
    dataset: str, target: str, images: int, srcc: float | None, plcc: float | None
) -> EvaluationResult:
    """Correlations as a manifest holds them, rounded to four decimals."""
    rounded = [None if value is None else round(value, 4) for value in (srcc, plcc)]
    return EvaluationResult(dataset=dataset, target=target, n=images, srcc=rounded[0], plcc=rounded[1])
