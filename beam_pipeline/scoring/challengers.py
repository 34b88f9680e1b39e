"""Which images a challenger scores, too. A pure function of the uri."""

from __future__ import annotations

import hashlib

_SALT = b"challenger"
"""Chunks are made by a hash of the uri, too: without it, the share would be whole shards."""


def in_share(uri: str, share: float) -> bool:
    """Say whether a uri belongs to a share.

    The same in every process, run and version; a larger share holds all of a smaller one.

    Args:
        uri: Of an image.
        share: [0, 1]: 0 takes none, 1 all.
    """
    digest = hashlib.blake2b(uri.encode(errors="surrogateescape"), digest_size=7, salt=_SALT).digest()
    # 56 bits: 64 would round up to 1.0 in a double, and leave that uri out of a share of 1.
    return int.from_bytes(digest, "big") / 2**56 < share
