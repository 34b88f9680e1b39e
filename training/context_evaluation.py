"""What text about an image is worth: its score with the context given, without, and with another image's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from model.scores import to_unit_scale
from schemas.annotations import Annotation
from schemas.manifest import ScoreScale
from schemas.records import Prediction
from training.bootstrap import SEED
from training.contexts import Context, has_context, shown_contexts
from training.evaluate import FEWEST_IMAGES, compare_readings, source_numbers
from training.evaluation import ContextEvaluation
from training.figures import Numbers
from training.scoring import ScoredImages

REFERENCE_CONTEXT: Context = "none"
Answer = Callable[[Sequence[Path], Sequence[str | None]], Sequence[Prediction]]
"""What a model says of images with contexts, one prediction each."""


def evaluate_contexts(
    answer: Answer,
    files: Sequence[Path],
    annotations: Sequence[Annotation],
    given: ScoredImages,
    scale: ScoreScale,
    *,
    seed: int = SEED,
) -> tuple[ContextEvaluation, ...]:
    """Ask again without contexts and with shuffled ones, and compare the score.

    Only images that have a context are asked again; the others are shown the same every time.

    Args:
        answer: Asks the model.
        files: The images.
        annotations: Of the same images, in the same order.
        given: What the model said with the contexts as given; images that could not be read are left out.
        scale: Native range of the annotations' ``mos``.
        seed: Of the intervals.

    Returns:
        As of ``compare_contexts``.
    """
    labels = [annotations[row] for row in given.rows]
    again = [place for place, label in enumerate(labels) if has_context(label)]
    said: dict[Context, Sequence[Prediction]] = {}
    for context in get_args(Context):
        if context == "given":
            said[context] = given.predictions
            continue
        shown = shown_contexts(annotations, context)
        rows = [given.rows[place] for place in again]
        answers = answer([files[row] for row in rows], [shown[row] for row in rows])
        said[context] = _replaced(given.predictions, dict(zip(again, answers, strict=True)))
    # An answer that was written freely may lack a score: what is paired has one with every context.
    mos = {
        place: to_unit_scale(label.mos, scale)
        for place, label in enumerate(labels)
        if label.mos is not None and all(found[place].score is not None for found in said.values())
    }
    rated, true = list(mos), np.array(list(mos.values()))
    scores = {
        context: np.array([found[place].score for place in rated], dtype=float)
        for context, found in said.items()
    }
    having = np.isin(rated, again)
    return compare_contexts(scores, having, true, source_numbers(labels)[rated], seed=seed)


def compare_contexts(
    scores: Mapping[Context, Numbers],
    having: NDArray[np.bool_],
    true: Numbers,
    sources: NDArray[np.int64],
    *,
    seed: int = SEED,
) -> tuple[ContextEvaluation, ...]:
    """Compare scores by context with those without, on the same resamples.

    Args:
        scores: (n,) by context, ``none`` among them.
        having: (n,) whether an image has a context.
        true: (n,) true scores on the same scale.
        sources: (n,) number of every image's source.
        seed: Of the intervals.

    Returns:
        Of all images, then of those that have a context, where these are others; groups with fewer than
        three images are left out.
    """
    groups = {"all": np.ones_like(having), "with a context": having}
    if having.all():
        del groups["all"]
    found = []
    for group, rows in groups.items():
        if rows.sum() < FEWEST_IMAGES:
            continue
        readings = {context: score[rows] for context, score in scores.items()}
        compared = compare_readings(readings, REFERENCE_CONTEXT, true[rows], sources[rows], seed=seed)
        found += [
            ContextEvaluation(
                group, int(rows.sum()), len(np.unique(sources[rows])), context, figures, difference
            )
            for context, (figures, difference) in compared.items()
        ]
    return tuple(found)


def _replaced(predictions: Sequence[Prediction], others: Mapping[int, Prediction]) -> list[Prediction]:
    return [others.get(place, prediction) for place, prediction in enumerate(predictions)]
