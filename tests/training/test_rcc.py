from __future__ import annotations

import struct
import zlib

import pytest

from training.demo.rcc import read_rcc, unpack_rcc


def _name(text: str) -> bytes:
    return struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")


def _resource(version: int, *, packed: bool = False, name: str = "cat.webp") -> bytes:
    """A root, one folder ``animals`` in it, one file in that."""
    names = _name("animals") + _name(name)
    content = b"purr" * 20
    blob = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
    data = struct.pack(">I", len(blob)) + blob
    extra = b"\0" * 8 if version >= 2 else b""
    nodes = [
        struct.pack(">IHII", 0, 2, 1, 1) + extra,
        struct.pack(">IHII", 0, 2, 1, 2) + extra,
        struct.pack(">IHHHI", len(_name("animals")), 1 if packed else 0, 0, 0, 0) + extra,
    ]
    tree = b"".join(nodes)
    header = 20
    offsets = (header + len(data) + len(names), header, header + len(data))
    return b"qres" + struct.pack(">4I", version, *offsets) + data + names + tree


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_files_come_out_under_their_folders(version: int, packed: bool) -> None:
    assert dict(read_rcc(_resource(version, packed=packed))) == {"animals/cat.webp": b"purr" * 20}


def test_other_content_is_refused() -> None:
    with pytest.raises(ValueError, match="not a Qt resource"):
        list(read_rcc(b"PK\3\4 something else"))


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 9"):
        list(read_rcc(b"qres" + struct.pack(">4I", 9, 0, 0, 0)))


@pytest.mark.parametrize("length", [6, 30, 150])
def test_a_file_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        list(read_rcc(_resource(2)[:length]))


def test_a_name_cannot_lead_out_of_the_folder(tmp_path) -> None:
    path = tmp_path / "evil.rcc"
    path.write_bytes(_resource(2, name="../../evil"))
    with pytest.raises(ValueError, match="leads out"):
        unpack_rcc(path, tmp_path / "target")
    assert not (tmp_path / "evil").exists()
