"""Chunks: which refs are scored together. Pure functions.

In batch a chunk depends on the set of refs alone, not on timing or workers. So a second full run makes the
same chunks, hence the same file names, and rewrites its files instead of adding to them.

    span     days that share chunks, since a chunk writes one file for each of its days: the largest block of
             2^k days (aligned, so that other days do not move it) that holds no more refs than a chunk
    shard    of a day that holds more: 2^k or 3 · 2^k parts by a hash of the uri, as many as its count asks
             for; of these numbers only, because then a few more images seldom change it
    chunk    a shard, sorted; cut evenly where it is too large. One shard has a small chunk in front, the
             opening, so that the first rows of a job come soon: they are written when a chunk is done

A file costs the pipeline 5 to 10 ms whatever is in it, an image 0.2 ms: so there are as few files for an
image in small jobs as in large ones.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from itertools import accumulate, islice, pairwise
from math import isqrt
from typing import NamedTuple

from beam_pipeline.coders import decode, encode
from schemas.records import Chunk, ImageRef

_FEWEST_CHUNKS = 8
_SMALL_CHUNK = 256
_OPENING_REFS = 32
_FEWEST_TO_OPEN = 4 * _OPENING_REFS

Shard = tuple[tuple[int, int], bool]
"""First day of the span and the part of it; and whether the job's opening is cut from it.

Pairs of pairs have coders that every runner knows, and this is a key of a shuffle.
"""


class Span(NamedTuple):
    """The span of a day: its first day, its number of shards, and whether it is the first of the job."""

    first_day: int
    shards: int
    opens: bool


Parcel = bytes
"""Refs that travel together through a batch's shuffles, encoded as a chunk is, and compressed.

An element of a shuffle has a cost of its own, and the local runner keeps all of them in memory.
"""

_PARCEL_REFS = 32
_ALL_DAYS = 1 << 22
"""More than there are between the years 1 and 9999."""


def event_day(ref: ImageRef) -> int:
    """The UTC day of a ref as a number; the day that partitions its row."""
    return ref.event_time.astimezone(UTC).toordinal() if ref.event_time is not None else 0


def count_days(refs: Iterable[ImageRef]) -> Iterator[tuple[int, int]]:
    """Count refs by day, as ``event_day`` numbers it."""
    yield from Counter(map(event_day, refs)).items()


def in_parcels(refs: Iterable[ImageRef]) -> Iterator[Parcel]:
    """Put refs into parcels of 32, in their order: few enough that a small job spreads, too."""
    rest = iter(refs)
    while refs_of_parcel := tuple(islice(rest, _PARCEL_REFS)):
        yield parcel_of(refs_of_parcel)


def parcel_of(refs: Iterable[ImageRef]) -> Parcel:
    """Put refs into one parcel; uris of one folder hardly count, so they take half the room or less."""
    return zlib.compress(encode(Chunk(tuple(refs))), 1)


def refs_of(parcel: Parcel) -> tuple[ImageRef, ...]:
    """Give the refs of a parcel, in their order."""
    return decode(zlib.decompress(parcel), Chunk).refs


def plan_spans(refs_of_day: Mapping[int, int], chunk_size: int) -> dict[int, Span]:
    """Decide which days share chunks, and into how many shards a day is parted.

    A small job has smaller chunks, down to 256 refs, so that several workers share it.

    Args:
        refs_of_day: Day, as ``event_day`` counts, → number of refs.
        chunk_size: Most refs of a chunk.
    """
    days = sorted(refs_of_day)
    before = [0, *accumulate(refs_of_day[day] for day in days)]
    most = min(chunk_size, max(_SMALL_CHUNK, before[-1] // _FEWEST_CHUNKS))
    plan: dict[int, Span] = {}
    blocks = [(0, _ALL_DAYS)]
    while blocks:
        first, length = blocks.pop()
        low, high = bisect_left(days, first), bisect_left(days, first + length)
        total = before[high] - before[low]
        if total > most and length > 1:
            blocks += [(first, length // 2), (first + length // 2, length // 2)]
            continue
        for day in days[low:high]:
            plan[day] = Span(first, shard_count(total, most), opens=low == 0)
    return plan


def by_shard(refs: Iterable[ImageRef], plan: Mapping[int, Span]) -> list[tuple[Shard, list[ImageRef]]]:
    """Group refs by their shards in a plan of ``plan_spans``; that of the opening comes first.

    The local runner scores shards in the order in which it met them.
    """
    shards: dict[Shard, list[ImageRef]] = {}
    for ref in refs:
        span = plan[event_day(ref)]
        part = shard_of(ref.image_uri, span.shards)
        shards.setdefault(((span.first_day, part), span.opens and part == 0), []).append(ref)
    return sorted(shards.items(), key=lambda found: not found[0][1])


def shard_count(total: int, most: int) -> int:
    """Number of shards for ``total`` refs: 2^k or 3 · 2^k, with at most ``most`` refs each on average.

    Shards differ by the root of their size. So where 3 · 2^k would be full nearly to the brim, more than a
    third of them would be cut in two, and 4 · 2^k make fewer chunks.
    """
    wanted = max(-(-total // most), 1)
    power = 1 << (wanted - 1).bit_length()
    three_quarters = power // 4 * 3
    return three_quarters if three_quarters * (most - isqrt(most) // 2) >= max(total, 1) else power


def shard_of(uri: str, shards: int) -> int:
    """The shard of a uri, in [0, shards); the same in every process and version (unlike ``hash``)."""
    digest = hashlib.blake2b(uri.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards


def cut_chunks(refs: Iterable[ImageRef], chunk_size: int, *, opens: bool = False) -> list[Chunk]:
    """Sort a shard's refs by key and cut them into even chunks of at most ``chunk_size``.

    The same key given twice (by two patterns) is one ref; two generations of one uri are two.

    Args:
        refs: Of one shard, in any order.
        chunk_size: Most refs of a chunk.
        opens: Whether a small chunk comes first, of 32 refs; no shard or chunk of 128 or fewer needs it.
    """
    by_key = {ref.key: ref for ref in refs}
    ordered = [by_key[key] for key in sorted(by_key)]
    opening = _OPENING_REFS if opens and min(len(ordered), chunk_size) > _FEWEST_TO_OPEN else 0
    rest = len(ordered) - opening
    pieces = -(-rest // chunk_size)
    bounds = [opening + rest * piece // pieces for piece in range(pieces + 1)] if pieces else []
    chunks = [Chunk(tuple(ordered[low:high])) for low, high in pairwise(bounds)]
    return [Chunk(tuple(ordered[:opening])), *chunks] if opening else chunks
