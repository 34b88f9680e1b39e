"""Columns of few distinct values, by what they have in common instead of row by row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def codes_of(column: pa.Array) -> tuple[list[Any], NDArray[np.integer[Any]]]:
    """Take a column apart, whether it was written as a dictionary or not.

    Returns:
        What values it may have, null last; and for each row the index of its own.
    """
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]
    if not encoded.null_count:
        return values, encoded.indices.to_numpy()
    # Null's index may be one more than a small type of index holds.
    return values, encoded.indices.cast(pa.int64()).fill_null(len(values) - 1).to_numpy()


def is_one_of(column: pa.Array, wanted: Collection[str | None]) -> NDArray[np.bool_]:
    """Say of each row whether its value is wanted."""
    values, codes = codes_of(column)
    found: NDArray[np.bool_] = np.array([value in wanted for value in values])[codes]
    return found
