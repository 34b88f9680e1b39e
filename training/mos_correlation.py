"""Whether attributes follow opinion: every predicted one against the mean opinion score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.annotations import Annotation
from schemas.attributes import Attribute, Vocabulary
from schemas.records import Prediction
from training.bootstrap import SEED, estimates
from training.evaluation import MosCorrelation
from training.figures import srcc

COMPOSITE = "composite_score"


def correlate_with_mos(
    pairs: Sequence[tuple[Prediction, Annotation]],
    vocabulary: Vocabulary,
    sources: NDArray[np.int64],
    fewest_images: int,
    *,
    seed: int = SEED,
) -> tuple[MosCorrelation, ...]:
    """Correlate the composite score and every attribute with ``mos``, as RealQA's Figure 2 does.

    Args:
        pairs: What was said about every image, and its labels.
        vocabulary: Codes of the labels.
        sources: (n,) number of every image's source.
        fewest_images: What has fewer images is left out.
        seed: Of the intervals.

    Returns:
        The composite score first, then the attributes in order. Attributes by their expected codes, by the
        decided ones where some prediction carries no expected one.
    """
    columns = {COMPOSITE: [said.composite_score for said, _ in pairs]}
    columns |= {one.name: _codes(one, [said for said, _ in pairs]) for one in vocabulary.evaluated}
    found = []
    for name, values in columns.items():
        rows = [row for row, (_, label) in enumerate(pairs) if None not in (values[row], label.mos)]
        if len(rows) < fewest_images:
            continue
        predicted = np.array([values[row] for row in rows], dtype=float)
        mos = np.array([pairs[row][1].mos for row in rows], dtype=float)
        (figure,) = estimates([srcc(predicted, mos)], sources[rows], seed=seed)
        found.append(MosCorrelation(name, len(rows), len(np.unique(sources[rows])), figure))
    return tuple(found)


def _codes(attribute: Attribute, predictions: Sequence[Prediction]) -> list[float | None]:
    decided = [getattr(said, attribute.name) for said in predictions]
    expected: list[float | None] = [getattr(said, f"{attribute.name}_expected") for said in predictions]
    if all(code is not None for code, value in zip(expected, decided, strict=True) if value is not None):
        return expected
    codes = dict(zip(attribute.values, map(float, attribute.codes), strict=True))
    return [None if value is None else codes[str(value)] for value in decided]
