"""A few shapes for all micro-batches: what is recorded for one serves every batch padded to it."""

from __future__ import annotations

_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_FINE, _COARSE, _TURN = 64, 128, 512


def bucket_rows(images: int) -> int:
    """Rows that a micro-batch of so many images is padded to; beyond 64 the next multiple of 16."""
    return next((rows for rows in _ROWS if rows >= images), -(-images // 16) * 16)


def bucket_columns(columns: int) -> int:
    """Columns that image and context are padded to: multiples of 64 up to 512, then of 128."""
    step = _FINE if columns <= _TURN else _COARSE
    return -(-columns // step) * step
