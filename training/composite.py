"""One score out of attributes: weights by partial least squares against people's feedback.

RealQA's composite: attributes that were predicted as expected codes, weighted so that their sum follows
opinion. How many components is found by cross-validation that keeps all images of a source on one side,
repeated with other folds because one deal of a hundred images moves SRCC by ±0.015; the weights are then
fitted to all images. Partial least squares, because attributes rise and fall together, and
plain regression would give such inputs large weights of opposite sign.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSRegression

from schemas.errors import ConfigurationError
from schemas.manifest import CompositeWeights
from training.bootstrap import SEED, Estimate, estimates
from training.figures import Numbers, Statistic, difference, figure, plcc, rmse, srcc

FOLDS = 5
MOST_COMPONENTS = 5
REPEATS = 10
"""Deals of folds that every figure is the mean of."""

_ERRORS_IN_INTERVAL = 2 * 1.96  # standard errors that a 95 % interval is wide
_Rows = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ComponentFigures:
    """What so many components reach on images of sources that they were not fitted to.

    Attributes:
        components: How many.
        srcc, plcc: Of the predictions of all folds together; mean over ``REPEATS`` deals of folds.
        rmse: In the unit of the feedback; mean likewise.
    """

    components: int
    srcc: Estimate
    plcc: Estimate
    rmse: Estimate


@dataclass(frozen=True, slots=True)
class CompositeFit:
    """Weights, and what they are worth.

    Attributes:
        weights: Fitted to all images with ``components``; for the manifest.
        components: The fewest whose cross-validated SRCC lies within one standard error of the highest, the
            error being that of their difference on the same resamples: more components only where they show.
        candidates: Figures of every number that was tried.
        best_input: The input whose own SRCC with the feedback is furthest from zero.
        best_srcc: That SRCC, over all images; there is nothing to fit, so nothing to cross-validate.
        gain: Cross-validated SRCC of the composite − size of ``best_srcc``, on the same resamples. Both were
            picked by these very images, so it flatters a little on both sides.
        constant: Inputs that never change here: without weight.
        images, sources: That were fitted to.
        folds: Of the cross-validation.
    """

    weights: CompositeWeights
    components: int
    candidates: tuple[ComponentFigures, ...]
    best_input: str
    best_srcc: Estimate
    gain: Estimate
    constant: tuple[str, ...]
    images: int
    sources: int
    folds: int

    @property
    def chosen(self) -> ComponentFigures:
        """Figures of the number of components that was chosen."""
        return self.candidates[self.components - 1]


def fit_composite(
    codes: Mapping[str, Numbers],
    feedback: Numbers,
    groups: NDArray[np.int64],
    *,
    max_components: int = MOST_COMPONENTS,
    folds: int = FOLDS,
    seed: int = SEED,
) -> CompositeFit:
    """Fit weights of inputs to feedback.

    Args:
        codes: (n,) numbers by input, such as expected codes by attribute.
        feedback: (n,) what people said, on any scale; the composite score is on the same.
        groups: (n,) number of every image's source.
        max_components: Try so many; fewer where the inputs do not carry them.
        folds: Of the cross-validation.
        seed: Of folds and intervals.

    Raises:
        ConfigurationError: With every reason: numbers are missing (NaN), the feedback or every input never
            changes, or there are fewer sources than folds.
    """
    constant = tuple(name for name, values in codes.items() if np.ptp(values) == 0)
    inputs = {name: values for name, values in codes.items() if name not in constant}
    problems = _problems(codes, feedback, groups, folds)
    if not problems and not inputs:
        problems = ["no input changes from image to image: there is nothing to weigh"]
    if problems:
        raise ConfigurationError(problems)
    matrix = np.column_stack(list(inputs.values()))
    deals = [grouped_folds(groups, folds, seed + repeat) for repeat in range(REPEATS)]
    most = min(max_components, *[_components_carried(matrix, fold) for fold in deals])
    predicted = [
        [_cross_validated(matrix, feedback, fold, count) for fold in deals] for count in range(1, most + 1)
    ]
    found = [_candidate(count, one, feedback, groups, seed) for count, one in enumerate(predicted, 1)]
    orders = [_mean_of([srcc(one, feedback) for one in repeats]) for repeats in predicted]
    components = _fewest(found, orders, groups, seed)
    best = max(inputs, key=lambda name: abs(figure(srcc(inputs[name], feedback), len(feedback)) or 0.0))
    own = srcc(inputs[best], feedback)
    upright = np.sign(figure(own, len(feedback)) or 1.0) * inputs[best]
    gain = difference(orders[components - 1], srcc(upright, feedback))
    best_srcc, gained = estimates([own, gain], groups, seed=seed)
    return CompositeFit(
        weights=_weights(list(inputs), matrix, feedback, components),
        components=components,
        candidates=tuple(found),
        best_input=best,
        best_srcc=best_srcc,
        gain=gained,
        constant=constant,
        images=len(feedback),
        sources=len(np.unique(groups)),
        folds=folds,
    )


def grouped_folds(groups: NDArray[np.int64], folds: int, seed: int = SEED) -> NDArray[np.int64]:
    """Deal sources into folds of nearly equal size: large sources first, equals in the seed's order.

    Args:
        groups: (n,) number of every image's source.
        folds: How many.
        seed: Same seed, same folds, on every machine.

    Returns:
        (n,) number of every image's fold.
    """
    unique, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(folds, dtype=np.int64)
    dealt = np.zeros(len(unique), dtype=np.int64)
    for source in order:
        dealt[source] = filled.argmin()
        filled[dealt[source]] += sizes[source]
    return dealt[group]


def _problems(
    codes: Mapping[str, Numbers], feedback: Numbers, groups: NDArray[np.int64], folds: int
) -> list[str]:
    columns = {**codes, "feedback": feedback}
    missing = {name: int(np.isnan(values).sum()) for name, values in columns.items()}
    problems = [
        f"{name}: {count} of {len(feedback)} numbers are missing" for name, count in missing.items() if count
    ]
    if np.ptp(feedback) == 0:
        problems.append("the feedback is the same for every image")
    sources = len(np.unique(groups))
    if sources < folds:
        problems.append(f"{folds} folds need as many sources or more; there are {sources}")
    return problems


def _components_carried(matrix: Numbers, fold: NDArray[np.int64]) -> int:
    """Rank of the inputs in the poorest training set: more components than that do not exist."""
    ranks = []
    for number in np.unique(fold):
        rows = matrix[fold != number]
        spread = rows.std(0)
        ranks.append(int(np.linalg.matrix_rank((rows - rows.mean(0)) / np.where(spread > 0, spread, 1.0))))
    return max(1, min(ranks))


def _cross_validated(matrix: Numbers, feedback: Numbers, fold: NDArray[np.int64], components: int) -> Numbers:
    predicted = np.empty(len(feedback))
    for number in np.unique(fold):
        held: _Rows = fold == number
        predicted[held] = _predict(_fitted(matrix[~held], feedback[~held], components), matrix[held])
    return predicted


def _candidate(
    components: int, predicted: list[Numbers], feedback: Numbers, groups: NDArray[np.int64], seed: int
) -> ComponentFigures:
    statistics = [_mean_of([kind(one, feedback) for one in predicted]) for kind in (srcc, plcc, rmse)]
    return ComponentFigures(components, *estimates(statistics, groups, seed=seed))


def _fewest(
    found: list[ComponentFigures], orders: list[Statistic], groups: NDArray[np.int64], seed: int
) -> int:
    """The one-standard-error rule, on paired differences to the highest SRCC."""
    best = max(range(len(found)), key=lambda place: found[place].srcc.value or -1.0)
    behind = estimates([difference(orders[best], order) for order in orders[:best]], groups, seed=seed)
    near = [
        one.value is not None
        and one.low is not None
        and one.high is not None
        and one.value <= (one.high - one.low) / _ERRORS_IN_INTERVAL
        for one in behind
    ]
    return [*near, True].index(True) + 1


def _mean_of(statistics: list[Statistic]) -> Statistic:
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def _weights(names: list[str], matrix: Numbers, feedback: Numbers, components: int) -> CompositeWeights:
    model = _fitted(matrix, feedback, components)
    intercept = float(_predict(model, np.zeros((1, matrix.shape[1])))[0])
    return CompositeWeights(
        intercept=intercept, weights=dict(zip(names, model.coef_[0].tolist(), strict=True))
    )


def _fitted(matrix: Numbers, feedback: Numbers, components: int) -> PLSRegression:
    with warnings.catch_warnings():
        # Feedback that fewer components explain entirely leaves nothing for the next: no fault.
        warnings.filterwarnings("ignore", "y residual is constant", UserWarning)
        return PLSRegression(components).fit(matrix, feedback)


def _predict(model: PLSRegression, matrix: Numbers) -> Numbers:
    return np.asarray(model.predict(matrix), dtype=float).ravel()
