"""Unpacks Qt resource files (``.rcc``, format versions 1 to 3).

Layout (Qt's ``rcc`` tool, big-endian): a header of "qres", version and three offsets; a tree of fixed-size
nodes; names as UTF-16 with a length and a hash before them; data blobs with their length before them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = b"qres"
_ZLIB, _DIRECTORY, _ZSTD = 1, 2, 4
_MOST_BYTES = 1 << 28
"""No file in a resource is larger; a damaged length must not take all memory."""


class _Resource(NamedTuple):
    content: bytes
    node_bytes: int
    tree: int
    data: int
    names: int


def read_rcc(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield every file of a resource as (path with ``/``, bytes).

    Raises:
        ValueError: The content is not a Qt resource file of a known version, or is cut short.
    """
    if content[:4] != MAGIC:
        raise ValueError("not a Qt resource file: it does not begin with 'qres'")
    try:
        version, tree, data, names = struct.unpack_from(">4I", content, 4)
        if not 1 <= version <= 3:
            raise ValueError(f"Qt resource format version {version} is not known (1 to 3 are)")
        # Version 2 added a modification time of eight bytes to every node.
        resource = _Resource(content, 22 if version >= 2 else 14, tree, data, names)
        yield from _walk(resource, 0, "")
    except struct.error as error:
        raise ValueError(f"the Qt resource file is cut short: {error}") from error


def unpack_rcc(path: Path, target: Path) -> int:
    """Write the files of the resource ``path`` below ``target``; returns how many there were."""
    count = 0
    for name, content in read_rcc(path.read_bytes()):
        file = target / name
        if not file.resolve().is_relative_to(target.resolve()):
            raise ValueError(f"{path}: the name {name!r} leads out of the target folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        count += 1
    return count


def _walk(resource: _Resource, index: int, parent: str) -> Iterator[tuple[str, bytes]]:
    node = resource.tree + index * resource.node_bytes
    name_offset, flags = struct.unpack_from(">IH", resource.content, node)
    # The root has no name.
    path = f"{parent}/{_name(resource, name_offset)}".lstrip("/") if index else ""
    if flags & _DIRECTORY:
        count, first = struct.unpack_from(">II", resource.content, node + 6)
        if first <= index:
            raise ValueError("the Qt resource file's tree has a loop")
        for child in range(first, first + count):
            yield from _walk(resource, child, path)
    else:
        (offset,) = struct.unpack_from(">I", resource.content, node + 10)
        yield path, _blob(resource, offset, flags)


def _name(resource: _Resource, offset: int) -> str:
    start = resource.names + offset
    (length,) = struct.unpack_from(">H", resource.content, start)
    # Two bytes of length, four of hash, then UTF-16.
    return resource.content[start + 6 : start + 6 + 2 * length].decode("utf-16-be")


def _blob(resource: _Resource, offset: int, flags: int) -> bytes:
    start = resource.data + offset
    (size,) = struct.unpack_from(">I", resource.content, start)
    blob = resource.content[start + 4 : start + 4 + size]
    if len(blob) != size:
        raise ValueError("the Qt resource file is cut short: a blob is incomplete")
    if flags & _ZLIB:
        # Qt puts the uncompressed length before the zlib stream.
        return zlib.decompressobj().decompress(blob[4:], _MOST_BYTES)
    if flags & _ZSTD:
        # Imported here: only resources of this kind need it.
        import zstandard

        return zstandard.ZstdDecompressor().decompress(blob, max_output_size=_MOST_BYTES)
    return blob
