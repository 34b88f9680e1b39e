"""How well predictions follow labels: agreement, calibration and the ways to read a score, with intervals.

The score is compared on the scale of 0 to 10, attributes as ordinal codes, as in RealQA's Table 1.
Predictions come from free-running decoding: under teacher forcing the score follows the labels it is fed
almost exactly, which measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.scores import to_unit_scale
from schemas.annotations import Annotation
from schemas.attributes import Attribute, Vocabulary
from schemas.manifest import Decoder, ScoreScale
from schemas.records import Prediction
from training.bootstrap import SEED, Estimate, estimates
from training.evaluation import (
    Agreement,
    Coverage,
    DecoderEvaluation,
    Evaluation,
    LabelAgreement,
    Parsing,
    ScoreFigures,
    ScorePoint,
    TargetEvaluation,
)
from training.evaluation_pictures import confusion_matrix, reliability_bins
from training.figures import (
    Numbers,
    Statistic,
    difference,
    ece,
    ece_if_calibrated,
    mean,
    plcc,
    rmse,
    srcc,
)
from training.logistic import logistic_mapped
from training.mos_correlation import correlate_with_mos

SCORE = "score"
FEWEST_IMAGES = 3
"""A target with fewer labelled images is left out."""

_GAUSSIAN = {1: 0.683, 2: 0.954}  # what a Gaussian holds within ± 1 and ± 2 standard deviations
_NO_AGREEMENT = Agreement(Estimate(None), Estimate(None), Estimate(None))
_Pair = tuple[Prediction, Annotation]
_Name = TypeVar("_Name", bound=str)


def evaluate_predictions(
    predictions: Sequence[Prediction],
    labels: Sequence[Annotation],
    vocabulary: Vocabulary,
    scale: ScoreScale,
    readings: Mapping[Decoder, Sequence[float]] | None = None,
    *,
    parsing: Parsing | None = None,
    seed: int = SEED,
) -> Evaluation:
    """Compare predictions with labels.

    Args:
        predictions: Of every image.
        labels: Of the same images, in the same order.
        vocabulary: Codes of the labels.
        scale: Native range of the labels' ``mos``.
        readings: The score of every image, in [0, 10), by decoder, the one to compare with first; None or
            empty = the decoders are not compared.
        parsing: Of freely written answers; None = decoded by slots.
        seed: Of the intervals.

    Raises:
        ValueError: Not as many labels as predictions, or a ``mos`` outside the native range.
    """
    pairs = list(zip(predictions, labels, strict=True))
    sources = source_numbers(labels)
    score = _evaluate_score(pairs, sources, scale, readings or {}, seed)
    targets = list(score.targets)
    for attribute in vocabulary.evaluated:
        rows = _attribute_rows(attribute, pairs)
        if len(rows) >= FEWEST_IMAGES:
            targets.append(_attribute(attribute, [pairs[row] for row in rows], sources[rows], seed))
    if parsing is not None:
        targets = _with_unread(targets, pairs, sources, parsing, vocabulary)
    return Evaluation(
        images=len(labels),
        sources=_count(sources),
        targets=tuple(targets),
        coverage=score.coverage,
        decoders=score.decoders,
        seed=seed,
        mos_correlations=correlate_with_mos(pairs, vocabulary, sources, FEWEST_IMAGES, seed=seed),
        points=score.points,
        parsing=parsing,
    )


@dataclass(frozen=True)
class _ScoreEvaluation:
    """What ``Evaluation`` says of the score; nothing where too few images have one."""

    targets: tuple[TargetEvaluation, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    decoders: tuple[DecoderEvaluation, ...] = ()
    points: tuple[ScorePoint, ...] = ()


def _evaluate_score(
    pairs: Sequence[tuple[Prediction, Annotation]],
    sources: NDArray[np.int64],
    scale: ScoreScale,
    readings: Mapping[Decoder, Sequence[float]],
    seed: int,
) -> _ScoreEvaluation:
    rows = [row for row, (said, label) in enumerate(pairs) if None not in (said.score, label.mos)]
    if len(rows) < FEWEST_IMAGES:
        return _ScoreEvaluation()
    scored = [pairs[row] for row in rows]
    true = np.array([to_unit_scale(_known(label.mos), scale) for _, label in scored])
    score = np.array([_known(said.score) for said, _ in scored])
    deviations = [said.score_std for said, _ in scored]
    deviation = _optional(deviations)
    read = {decoder: np.array(values)[rows] for decoder, values in readings.items()}
    of_image = zip(scored, true.tolist(), score.tolist(), deviations, strict=True)
    return _ScoreEvaluation(
        targets=(_score(score, true, sources[rows], seed),),
        coverage=()
        if deviation is None
        else score_coverage(score, deviation, true, sources[rows], seed=seed),
        decoders=compare_decoders(read, true, sources[rows], seed=seed) if read else (),
        points=tuple(ScorePoint(label.image, *numbers) for (_, label), *numbers in of_image),
    )


def score_coverage(
    score: Numbers, deviation: Numbers, true: Numbers, sources: NDArray[np.int64], *, seed: int = SEED
) -> tuple[Coverage, ...]:
    """Measure how many true scores lie within one, and within two, deviations of the predicted one.

    Args:
        score: (n,) predicted.
        deviation: (n,) its standard deviation.
        true: (n,) on the same scale.
        sources: (n,) number of every image's source.
        seed: Of the intervals.
    """
    within = [mean((np.abs(true - score) <= count * deviation).astype(float)) for count in _GAUSSIAN]
    shares = estimates(within, sources, seed=seed)
    return tuple(
        Coverage(count, share, gaussian)
        for (count, gaussian), share in zip(_GAUSSIAN.items(), shares, strict=True)
    )


def compare_decoders(
    readings: Mapping[Decoder, Numbers], true: Numbers, sources: NDArray[np.int64], *, seed: int = SEED
) -> tuple[DecoderEvaluation, ...]:
    """Compare ways to read the score with the first of them, on the same resamples.

    Args:
        readings: (n,) scores by decoder, at least one.
        true: (n,) true scores on the same scale.
        sources: (n,) number of every image's source.
        seed: Of the intervals.
    """
    compared = compare_readings(readings, next(iter(readings)), true, sources, seed=seed)
    return tuple(DecoderEvaluation(decoder, *figures) for decoder, figures in compared.items())


def compare_readings(
    readings: Mapping[_Name, Numbers],
    reference: _Name,
    true: Numbers,
    sources: NDArray[np.int64],
    *,
    seed: int = SEED,
) -> dict[_Name, tuple[ScoreFigures, ScoreFigures | None]]:
    """Compare several scores of the same images with one of them, on the same resamples.

    Args:
        readings: (n,) scores by name.
        reference: The name of the one that the others are compared with.
        true: (n,) true scores on the same scale.
        sources: (n,) number of every image's source.
        seed: Of the intervals.

    Returns:
        Figures by name, and their differences to the reference's (a score's figures − the reference's); None
        for the reference itself.
    """
    statistics = {
        name: [srcc(read, true), plcc(read, true), rmse(read, true), mean(read - true)]
        for name, read in readings.items()
    }
    others = [name for name in readings if name != reference]
    wanted = [statistic for name in readings for statistic in statistics[name]]
    wanted += [
        difference(one, other)
        for name in others
        for one, other in zip(statistics[name], statistics[reference], strict=True)
    ]
    found = iter(estimates(wanted, sources, seed=seed))
    figures = {name: _score_figures([next(found) for _ in statistics[name]]) for name in readings}
    differences = {name: _score_figures([next(found) for _ in statistics[name]]) for name in others}
    return {name: (figures[name], differences.get(name)) for name in readings}


def source_numbers(labels: Sequence[Annotation]) -> NDArray[np.int64]:
    """Number the sources of images, (n,): an image without one stands for itself."""
    numbers: dict[tuple[bool, str], int] = {}
    keys = [(label.source is None, label.source or label.image) for label in labels]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _score(score: Numbers, true: Numbers, sources: NDArray[np.int64], seed: int) -> TargetEvaluation:
    statistics = _agreement_statistics(score, true)
    mapped = logistic_mapped(score, true)
    if mapped is not None:
        statistics.append(plcc(mapped, true))
    figures = estimates(statistics, sources, seed=seed)
    return TargetEvaluation(
        target=SCORE,
        images=len(score),
        sources=_count(sources),
        decided=_agreement(figures),
        expected=None,
        labels=None,
        plcc_logistic=figures[3] if mapped is not None else Estimate(None),
    )


def _attribute(
    attribute: Attribute, pairs: Sequence[_Pair], sources: NDArray[np.int64], seed: int
) -> TargetEvaluation:
    name = attribute.name
    decided, true = (np.array(codes, dtype=float) for codes in _decided_codes(attribute, pairs))
    right = np.array([getattr(said, name) == getattr(label, name) for said, label in pairs])
    expected = _optional([getattr(said, f"{name}_expected") for said, _ in pairs])
    statistics = [mean(right.astype(float)), *_agreement_statistics(decided, true)]
    if expected is not None:
        statistics += _agreement_statistics(expected, true)
    accuracy, *figures = estimates(statistics, sources, seed=seed)
    labels = _label_agreement(attribute, pairs, right, accuracy)
    agreed = [_agreement(figures[start : start + 3]) for start in range(0, len(figures), 3)]
    of_expected = agreed[1] if expected is not None else None
    return TargetEvaluation(name, len(pairs), _count(sources), agreed[0], of_expected, labels)


def _with_unread(
    targets: Sequence[TargetEvaluation],
    pairs: Sequence[_Pair],
    sources: NDArray[np.int64],
    parsing: Parsing,
    vocabulary: Vocabulary,
) -> list[TargetEvaluation]:
    """Say of every target how many labelled images lack it, of those too that leave too few for a figure."""
    measured = {target.target: target for target in targets}
    asked = {target.target for target in parsing.targets}
    labels = {SCORE: "mos"} | {one.name: one.name for one in vocabulary.evaluated}
    found = []
    for name, label in labels.items():
        labelled = [row for row, (_, truth) in enumerate(pairs) if getattr(truth, label) is not None]
        if name not in asked or len(labelled) < FEWEST_IMAGES:
            continue
        rows = [row for row in labelled if getattr(pairs[row][0], name) is not None]
        bare = TargetEvaluation(name, len(rows), _count(sources[rows]), _NO_AGREEMENT, None, None)
        found.append(replace(measured.get(name, bare), unread=len(labelled) - len(rows)))
    return found


def _label_agreement(
    attribute: Attribute, pairs: Sequence[_Pair], right: NDArray[np.bool_], accuracy: Estimate
) -> LabelAgreement:
    name = attribute.name
    ((majority, times),) = Counter(str(getattr(label, name)) for _, label in pairs).most_common(1)
    confidence = _optional([getattr(said, f"{name}_confidence") for said, _ in pairs])
    return LabelAgreement(
        accuracy=accuracy,
        majority_label=majority,
        majority_accuracy=times / len(pairs),
        ece=None if confidence is None else ece(confidence, right),
        ece_if_calibrated=None if confidence is None else ece_if_calibrated(confidence),
        confusion=confusion_matrix(
            attribute.values, [(getattr(label, name), getattr(said, name)) for said, label in pairs]
        ),
        reliability=() if confidence is None else reliability_bins(confidence, right),
    )


def _attribute_rows(attribute: Attribute, pairs: Sequence[_Pair]) -> list[int]:
    name = attribute.name
    return [
        row
        for row, (said, label) in enumerate(pairs)
        if None not in (getattr(said, name), getattr(label, name))
    ]


def _decided_codes(attribute: Attribute, pairs: Sequence[_Pair]) -> tuple[list[int], list[int]]:
    codes = dict(zip(attribute.values, attribute.codes, strict=True))
    decided = [codes[str(getattr(said, attribute.name))] for said, _ in pairs]
    return decided, [codes[str(getattr(label, attribute.name))] for _, label in pairs]


def _agreement_statistics(predicted: Numbers, true: Numbers) -> list[Statistic]:
    return [srcc(predicted, true), plcc(predicted, true), rmse(predicted, true)]


def _agreement(found: Sequence[Estimate]) -> Agreement:
    return Agreement(srcc=found[0], plcc=found[1], rmse=found[2])


def _score_figures(found: Sequence[Estimate]) -> ScoreFigures:
    return ScoreFigures(srcc=found[0], plcc=found[1], rmse=found[2], mean_error=found[3])


def _optional(values: Sequence[float | None]) -> Numbers | None:
    known = [value for value in values if value is not None]
    return np.array(known, dtype=float) if len(known) == len(values) else None


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("a chosen row lacks its score or its mos")
    return value


def _count(sources: NDArray[np.int64]) -> int:
    return len(np.unique(sources))
