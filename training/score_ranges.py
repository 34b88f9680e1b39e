"""Opinion scores on other scales: a mean and its standard deviation move together."""

from __future__ import annotations

from schemas.annotations import Annotation

ScoreRange = tuple[float, float]
"""Lowest and highest mos that a data set's scale allows."""


def rescaled(annotation: Annotation, native: ScoreRange, wanted: ScoreRange) -> Annotation:
    """Map an annotation's mos and mos_std linearly from one range to another.

    Args:
        annotation: mos and mos_std on the native scale, or None.
        native: Range that they are in.
        wanted: Range that they are to be in.

    Returns:
        The same labels; mos moved and stretched, mos_std stretched by the same factor.

    Raises:
        ValueError: A range is empty: its low end is not below its high end.
    """
    for low, high in (native, wanted):
        if not low < high:
            raise ValueError(f"{low:g}–{high:g} is no range")
    factor = (wanted[1] - wanted[0]) / (native[1] - native[0])
    mos, std = annotation.mos, annotation.mos_std
    moved = {
        "mos": None if mos is None else wanted[0] + (mos - native[0]) * factor,
        "mos_std": None if std is None else std * factor,
    }
    return annotation.model_copy(update=moved)
