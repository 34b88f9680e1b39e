"""Figures of a comparison: every variant's, over its seeds, and its paired differences to the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.scores import to_unit_scale
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY, Attribute
from schemas.manifest import ScoreScale
from schemas.records import Prediction
from training.bootstrap import SEED, Estimate, estimates
from training.figures import Numbers, Statistic, difference, ece, mean, plcc, rmse, srcc

Target = Literal["score", "attributes"]


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One variant, trained once and asked about every image.

    Attributes:
        seed: Of its training.
        predictions: One an image, in the labels' order.
        images_per_s: From files' bytes to predictions.
    """

    seed: int
    predictions: Sequence[Prediction]
    images_per_s: float


@dataclass(frozen=True, slots=True)
class VariantFigures:
    """One row of the table. Correlations and errors are means over the seeds.

    Attributes:
        name: Of the variant.
        seeds: How many runs.
        srcc, plcc, rmse: With intervals over sources; RMSE in points of 0–10, or in codes.
        lowest_srcc, highest_srcc: Of the single runs.
        srcc_difference: To the first variant, on the same resamples; None for that one.
        calibration: Of scores: share of true ones within one ``score_std`` (0.683 if errors were Gaussian).
            Of attributes: mean ECE. None where there is no such distribution.
        images_per_s: Mean over the seeds.
    """

    name: str
    seeds: int
    srcc: Estimate
    plcc: Estimate
    rmse: Estimate
    lowest_srcc: float
    highest_srcc: float
    srcc_difference: Estimate | None
    calibration: Estimate | None
    images_per_s: float


@dataclass(frozen=True, slots=True)
class _Statistics:
    srcc: Statistic
    plcc: Statistic
    rmse: Statistic
    single: Sequence[Statistic]
    within: Statistic | None = None
    ece: Estimate | None = None


def compare_variants(
    runs: Mapping[str, Sequence[SeedRun]],
    labels: Sequence[Annotation],
    scales: Mapping[str, ScoreScale],
    sources: NDArray[np.int64],
    target: Target,
    *,
    seed: int = SEED,
) -> list[VariantFigures]:
    """Compare variants on the same images and the same resamples of their sources.

    Args:
        runs: By variant, the one to compare with first; one or more each.
        labels: Of every image.
        scales: By variant: native range of the labels.
        sources: (n,) number of every image's source.
        target: ``score``; or ``attributes``: the mean over them, in which one that is never decided
            otherwise counts as 0.
        seed: Of the intervals.
    """
    made = {
        name: _score_statistics(found, labels, scales[name])
        if target == "score"
        else _attribute_statistics(found, labels)
        for name, found in runs.items()
    }
    first = next(iter(made.values()))
    figures = []
    for name, statistics in made.items():
        wanted = [statistics.srcc, statistics.plcc, statistics.rmse]
        others = [difference(statistics.srcc, first.srcc)] if statistics is not first else []
        within = [statistics.within] if statistics.within else []
        found = estimates([*wanted, *others, *within], sources, seed=seed)
        single = [float(one(np.ones((1, len(labels))))[0]) for one in statistics.single]
        figures.append(
            VariantFigures(
                name=name,
                seeds=len(runs[name]),
                srcc=found[0],
                plcc=found[1],
                rmse=found[2],
                lowest_srcc=min(single),
                highest_srcc=max(single),
                srcc_difference=found[3] if others else None,
                calibration=found[-1] if within else statistics.ece,
                images_per_s=float(np.mean([run.images_per_s for run in runs[name]])),
            )
        )
    return figures


def _score_statistics(
    runs: Sequence[SeedRun], labels: Sequence[Annotation], scale: ScoreScale
) -> _Statistics:
    true = np.array([to_unit_scale(_known(label.mos), scale) for label in labels])
    said = [np.array([_known(one.score) for one in run.predictions]) for run in runs]
    spreads = [[one.score_std for one in run.predictions] for run in runs]
    within = [
        mean((np.abs(true - score) <= np.array(spread, dtype=float)).astype(float))
        for score, spread in zip(said, spreads, strict=True)
        if None not in spread
    ]
    single = [srcc(score, true) for score in said]
    return _Statistics(
        srcc=_average(single),
        plcc=_average([plcc(score, true) for score in said]),
        rmse=_average([rmse(score, true) for score in said]),
        single=single,
        within=_average(within) if within else None,
    )


def _attribute_statistics(runs: Sequence[SeedRun], labels: Sequence[Annotation]) -> _Statistics:
    single = [_over_attributes(run, labels, srcc) for run in runs]
    sure = [_mean_ece(run, labels) for run in runs]
    return _Statistics(
        srcc=_average(single),
        plcc=_average([_over_attributes(run, labels, plcc) for run in runs]),
        rmse=_average([_over_attributes(run, labels, rmse) for run in runs]),
        single=single,
        ece=Estimate(float(np.mean(sure))),
    )


def _over_attributes(
    run: SeedRun, labels: Sequence[Annotation], figure: Callable[[Numbers, Numbers], Statistic]
) -> Statistic:
    parts = [
        figure(_codes(attribute, run.predictions), _codes(attribute, labels))
        for attribute in VOCABULARY.evaluated
    ]
    # A correlation with something that never changes does not exist; as a prediction it is worth nothing.
    return lambda weights: np.mean([np.nan_to_num(part(weights)) for part in parts], axis=0)


def _codes(attribute: Attribute, records: Sequence[Prediction | Annotation]) -> Numbers:
    values = [getattr(record, attribute.name) for record in records]
    return np.array([attribute.codes[attribute.values.index(str(_known(v)))] for v in values], dtype=float)


def _mean_ece(run: SeedRun, labels: Sequence[Annotation]) -> float:
    found = []
    for attribute in VOCABULARY.evaluated:
        sure = np.array([getattr(one, f"{attribute.name}_confidence") for one in run.predictions])
        right = [
            getattr(one, attribute.name) == getattr(label, attribute.name)
            for one, label in zip(run.predictions, labels, strict=True)
        ]
        found.append(ece(sure, np.array(right)))
    return float(np.mean(found))


def _average(statistics: Sequence[Statistic]) -> Statistic:
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def _known(value: object) -> float:
    if value is None:
        raise ValueError("a label or a prediction is missing")
    return value  # type: ignore[return-value]
