"""The same picture twice, though not byte for byte: a 64-bit perceptual hash and pairs that are close.

The hash is the usual one ("pHash", Zauner 2010): 32 × 32 grey pixels, their cosine transform, the lowest
8 × 8 frequencies against their median. It survives another size, another compression, a little more light;
it does not see a mirrored, turned or clearly cropped copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THRESHOLD_BITS = 4
"""Hashes that differ in so many of 64 bits or fewer are taken for one picture. Of 46 free photographs all
copies at half and an eighth of the size, in grey and as JPEG of quality 30 are that close, 43 at 1.2 times
the light, 40 with 1 % cut off each side and 17 with 3 %; no two different ones are (the closest: 18 bits)."""

_SIDE, _FREQUENCIES = 32, 8
_BITS = _FREQUENCIES**2
_FLAT = 2.0  # standard deviation of grey values, of 255: below it the hash would be of the noise
_BANDS = THRESHOLD_BITS + 1
_BLOCK_PAIRS = 500_000  # compared at a time: some 20 MB
_BIT_COUNTS = np.array([value.bit_count() for value in range(256)], np.int64)


def perceptual_hash(pixels: NDArray[np.uint8]) -> int | None:
    """Hash a picture by what it shows.

    Args:
        pixels: RGB, (height, width, 3).

    Returns:
        64 bits, or None for a picture without structure (one colour).
    """
    from scipy.fft import dctn

    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    values = np.asarray(grey, dtype=np.float64)
    if values.std() < _FLAT:
        return None
    low = dctn(values, norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(hashes: Sequence[int | None], sides: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Find the pictures on different sides that are close.

    Args:
        hashes: One a picture; None is close to nothing.
        sides: Which split each is on.

    Yields:
        Indices (first, second), first < second, of pairs within ``THRESHOLD_BITS``; every pair once.
    """
    there = np.array([index for index, found in enumerate(hashes) if found is not None], np.int64)
    values = np.array([found for found in hashes if found is not None], np.uint64)
    names, side = np.unique([sides[index] for index in there], return_inverse=True)
    if len(names) < 2:
        return
    # The largest side (of a million for training) is looked up, not indexed.
    indexed = np.flatnonzero(side != np.bincount(side).argmax())
    pairs: set[tuple[int, int]] = set()
    for first, second in _sharing_a_band(values, indexed):
        close = _differing_bits(values[first], values[second]) <= THRESHOLD_BITS
        close &= side[first] != side[second]
        both = np.sort(np.stack([there[first[close]], there[second[close]]], axis=1), axis=1)
        pairs.update(map(tuple, both.tolist()))
    yield from sorted(pairs)


def _sharing_a_band(
    values: NDArray[np.uint64], indexed: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs (any, indexed) of places in ``values`` that agree in one of five bands of bits, in blocks.

    Hashes that differ in four bits or fewer agree in at least one of five bands.
    """
    edges = [_BITS * band // _BANDS for band in range(_BANDS + 1)]
    for start, end in pairwise(edges):
        keys = (values >> np.uint64(start)) & np.uint64((1 << end - start) - 1)
        order = indexed[np.argsort(keys[indexed], kind="stable")]
        left = np.searchsorted(keys[order], keys, "left")
        sizes = np.searchsorted(keys[order], keys, "right") - left
        ends = np.cumsum(sizes)
        cuts = np.searchsorted(ends, np.arange(_BLOCK_PAIRS, ends[-1], _BLOCK_PAIRS))
        for rows in np.split(np.arange(len(values)), cuts):
            first = np.repeat(rows, sizes[rows])
            within = np.arange(len(first)) - np.repeat(np.cumsum(sizes[rows]) - sizes[rows], sizes[rows])
            yield first, order[np.repeat(left[rows], sizes[rows]) + within]


def _differing_bits(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.int64]:
    return _BIT_COUNTS[(first ^ second).view(np.uint8).reshape(-1, 8)].sum(axis=1)
