"""Chunks: which refs are scored together. Pure functions.

In batch a chunk depends on the set of refs alone, not on timing or workers. So a second full run makes the
same chunks, hence the same file names, and rewrites its files instead of adding to them.

    span     days that share chunks, since a chunk writes one file for each of its days: the largest block of
             2^k days (aligned, so that other days do not move it) that holds no more refs than a chunk
    shard    of a day that holds more: 2^k parts by a hash of the uri, as many as its count asks for; a power
             of two, because then a few more images seldom change the number
    chunk    a shard, sorted; cut evenly where it is too large
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import UTC
from itertools import accumulate, pairwise

from schemas.records import Chunk, ImageRef

_FEWEST_CHUNKS = 8
_SMALL_CHUNK = 128
_ALL_DAYS = 1 << 22
"""More than there are between the years 1 and 9999."""

Shard = tuple[int, int]
"""First day of the span, and the part of it."""


def event_day(ref: ImageRef) -> int:
    """The UTC day of a ref as a number; the day that partitions its row."""
    return ref.event_time.astimezone(UTC).toordinal() if ref.event_time is not None else 0


def plan_spans(refs_of_day: Mapping[int, int], chunk_size: int) -> dict[int, tuple[int, int]]:
    """Decide which days share chunks, and into how many shards a day is parted.

    A small job has smaller chunks, down to 128 refs, so that its first rows come soon: they are written when
    the first chunk is done.

    Args:
        refs_of_day: Day, as ``event_day`` counts, → number of refs.
        chunk_size: Most refs of a chunk.

    Returns:
        Day → first day of its span, and the span's number of shards.
    """
    days = sorted(refs_of_day)
    before = [0, *accumulate(refs_of_day[day] for day in days)]
    most = min(chunk_size, max(_SMALL_CHUNK, before[-1] // _FEWEST_CHUNKS))
    plan: dict[int, tuple[int, int]] = {}
    blocks = [(0, _ALL_DAYS)]
    while blocks:
        first, length = blocks.pop()
        low, high = bisect_left(days, first), bisect_left(days, first + length)
        total = before[high] - before[low]
        if total > most and length > 1:
            blocks += [(first, length // 2), (first + length // 2, length // 2)]
            continue
        for day in days[low:high]:
            plan[day] = (first, shard_count(total, most))
    return plan


def shard_of_ref(ref: ImageRef, plan: Mapping[int, tuple[int, int]]) -> Shard:
    """The shard of a ref by a plan of ``plan_spans``."""
    first, shards = plan[event_day(ref)]
    return first, shard_of(ref.image_uri, shards)


def shard_count(total: int, most: int) -> int:
    """Number of shards for ``total`` refs: a power of two with at most ``most`` refs each on average."""
    wanted = -(-total // most)
    return 1 << max(wanted - 1, 0).bit_length()


def shard_of(uri: str, shards: int) -> int:
    """The shard of a uri, in [0, shards); the same in every process and version (unlike ``hash``)."""
    digest = hashlib.blake2b(uri.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards


def cut_chunks(refs: Iterable[ImageRef], chunk_size: int) -> list[Chunk]:
    """Sort a shard's refs by key and cut them into even chunks of at most ``chunk_size``.

    The same key given twice (by two patterns) is one ref; two generations of one uri are two.
    """
    by_key = {ref.key: ref for ref in refs}
    ordered = [by_key[key] for key in sorted(by_key)]
    pieces = -(-len(ordered) // chunk_size)
    bounds = [len(ordered) * piece // pieces for piece in range(pieces + 1)] if pieces else []
    return [Chunk(tuple(ordered[low:high])) for low, high in pairwise(bounds)]
