from __future__ import annotations

import os
from pathlib import Path

import pytest

from beam_pipeline.stores import file_versions
from beam_pipeline.stores.file_versions import remove_version, version_of
from beam_pipeline.stores.storage import put_file


def test_every_replacement_is_another_version_also_with_equal_bytes_and_times(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    assert version_of(path) is None
    versions = set()
    for _ in range(3):
        put_file(path, b"same")
        os.utime(path, ns=(0, 0))
        versions.add(version_of(path))
        os.link(path, f"{path}-{len(versions)}")  # keeps its inode from being given again
    assert len(versions) == 3
    assert version_of(f"file://{path}") == version_of(path)


def test_a_file_goes_if_it_is_the_version_that_was_seen(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    put_file(path, b"1")
    assert remove_version(path, str(version_of(path)))
    assert os.listdir(tmp_path) == []
    assert remove_version(path, "whichever")


def test_a_replaced_file_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    put_file(path, b"1")
    seen = str(version_of(path))
    put_file(path, b"2")
    assert not remove_version(path, seen)
    assert Path(path).read_bytes() == b"2"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("replacements", [1, 2])
def test_a_file_that_is_replaced_between_looking_and_removing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacements: int
) -> None:
    """The second replacement comes while the first one lies aside."""
    path = str(tmp_path / "a")
    put_file(path, b"0")
    seen = str(version_of(path))
    rename = os.rename

    def racing(source: str, target: str) -> None:
        put_file(path, b"1")
        rename(source, target)
        if replacements == 2:
            put_file(path, b"2")

    monkeypatch.setattr(file_versions.os, "rename", racing)
    assert not remove_version(path, seen)
    assert Path(path).read_bytes() == str(replacements).encode()
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_vanishes_between_looking_and_removing_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "a")
    put_file(path, b"0")
    seen = str(version_of(path))
    monkeypatch.setattr(file_versions, "version_of", lambda uri: (os.remove(uri), seen)[1])
    assert remove_version(path, seen)
