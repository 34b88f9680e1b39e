"""Chunks: which refs are scored together. Pure functions.

In batch a chunk depends on the set of refs alone, not on timing or workers: the number of shards is the
power of two that the count asks for, a ref's shard is a hash of its uri, and a shard is sorted and cut
evenly. So a second full run makes the same chunks, hence the same file names, and rewrites its files
instead of adding to them. A power of two, because then a few more images seldom change the number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise

from schemas.records import Chunk, ImageRef

_FEWEST_CHUNKS = 8
_SMALL_CHUNK = 64


def shard_count(total: int, chunk_size: int) -> int:
    """Number of shards for ``total`` refs: the next power of two with at most ``chunk_size`` refs each.

    A small job has smaller chunks, down to 64 refs, so that its first rows come soon: they are written when
    the first chunk is done.
    """
    small = max(_SMALL_CHUNK, total // _FEWEST_CHUNKS)
    wanted = -(-total // min(chunk_size, small))
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
