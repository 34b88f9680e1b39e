"""Object stores: the same job through Beam's file systems, on one that keeps its objects in a folder."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

from beam_pipeline.__main__ import main
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.sources.inputs import describe, locate
from beam_pipeline.stores import storage
from beam_pipeline.stores.storage import (
    is_remote,
    join,
    list_files,
    local_path,
    put_file,
    read_image,
    remove_file,
)
from schemas.errors import FetchError, ImageLimitError
from tests.beam_pipeline.helpers import NOW, ref, rows, write_photos


class _Store(LocalFileSystem):  # type: ignore[misc]
    """``store://NAME`` is the file NAME of a folder."""

    folder: ClassVar[Path]

    @classmethod
    def scheme(cls) -> str:
        return "store"

    def _place(self, uri: str) -> str:
        return str(self.folder / uri.removeprefix("store://"))

    def has_dirs(self) -> bool:
        return False

    def split(self, path: str) -> Any:
        head, _, tail = path.rpartition("/")
        return head, tail

    def _list(self, prefix: str) -> Iterator[FileMetadata]:
        for path in self.folder.rglob("*"):
            uri = "store://" + str(path.relative_to(self.folder))
            if path.is_file() and uri.startswith(prefix):
                yield self.metadata(uri)

    def open(self, path: str, *_: Any, **__: Any) -> Any:
        return super().open(self._place(path), "application/octet-stream", "uncompressed")

    def create(self, path: str, *_: Any, **__: Any) -> Any:
        os.makedirs(os.path.dirname(self._place(path)), exist_ok=True)
        return super().create(self._place(path), "application/octet-stream", "uncompressed")

    def exists(self, path: str) -> bool:
        return os.path.isfile(self._place(path))

    def metadata(self, path: str) -> FileMetadata:
        place = super().metadata(self._place(path))
        return FileMetadata(path, place.size_in_bytes, place.last_updated_in_seconds)

    def delete(self, paths: list[str]) -> None:
        super().delete([self._place(path) for path in paths])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_Store, "folder", tmp_path, raising=False)
    return tmp_path


def test_an_object_is_found_described_and_read(store: Path) -> None:
    (path,) = write_photos(store / "photos", 1)
    os.utime(path, (0, 1_700_000_000))
    (found,) = locate("store://photos/photo_0000.jpg")
    described = describe(found, NOW)
    assert described.image_uri == "store://photos/photo_0000.jpg"
    assert described.size_bytes == path.stat().st_size
    assert described.event_time is not None
    assert described.event_time.timestamp() == 1_700_000_000
    assert read_image(described, 10**7) == path.read_bytes()
    with pytest.raises(ImageLimitError):
        read_image(described, 100)


def test_a_prefix_is_walked_and_a_pattern_matched_without_sidecars(store: Path) -> None:
    write_photos(store / "photos", 2)
    write_photos(store / "photos" / "deep", 1)
    (store / "photos" / "photo.json").write_text("{}")
    assert len(list(locate("store://photos/"))) == 3
    assert len(list(locate("store://photos/*"))) == 2


def test_an_object_of_a_table_that_is_not_there_has_a_listing_problem(store: Path) -> None:
    described = describe(ref("store://gone.jpg", event_time=None), NOW)
    assert described.problem is not None
    assert described.event_time == NOW
    with pytest.raises(FetchError):
        read_image(ref("store://gone.jpg"), 100)


def test_files_are_put_listed_and_removed(store: Path) -> None:
    put_file("store://out/scores/date=2026-01-01/a.parquet", b"x")
    put_file("store://out/scores/_hidden.parquet", b"x")
    assert list_files("store://out/scores", ".parquet") == ["store://out/scores/date=2026-01-01/a.parquet"]
    for _ in range(2):
        remove_file("store://out/scores/date=2026-01-01/a.parquet")
    assert list_files("store://out/scores", ".parquet") == []


@pytest.mark.integration
def test_a_whole_job_runs_from_store_to_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(store / "photos", 5)
    arguments = ["--input", "store://photos/*.jpg", "--output", "store://out", "--no-progress"]
    assert main(arguments, FakeScorerFactory()) == 0
    assert {row["image_uri"] for row in rows(store / "out", "scores")} == {
        f"store://photos/photo_{n:04}.jpg" for n in range(5)
    }
    assert main([*arguments, "--skip-scored"], FakeScorerFactory()) == 0
    assert "5 skipped" in capsys.readouterr().out
    assert main(["summary", "store://out"]) == 0


@pytest.mark.parametrize(
    ("uri", "remote"),
    [("gs://b/o", True), ("s3://b/o", True), ("/a/b", False), ("a:b", False), ("file:///a", False)],
)
def test_a_scheme_makes_a_uri_remote(uri: str, remote: bool) -> None:
    assert is_remote(uri) is remote


def test_file_uris_are_paths() -> None:
    assert local_path("file:///a/b%20c.jpg") == "/a/b c.jpg"
    assert local_path("/a/b%20c.jpg") == "/a/b%20c.jpg"


def test_names_are_joined_to_folders_with_and_without_a_slash() -> None:
    assert join("gs://b/out/", "scores", "x") == join("gs://b/out", "scores", "x") == "gs://b/out/scores/x"
    assert join("/", "x") == "/x"


def test_a_file_that_is_overwritten_while_it_is_read_is_neither_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old" * 100_000)
    (image,) = (describe(found, NOW) for found in locate(str(path)))

    class Overwritten(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            half = super().read(100_000)
            with path.open("r+b") as other:
                other.write(b"new" * 100_000)
            os.utime(path, (1, 1))
            return half + super().read(size)

    monkeypatch.setattr(storage, "open_binary", Overwritten)
    with pytest.raises(FetchError, match="changed after it was listed"):
        read_image(image, 10**6)


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_a_file_is_read_whole_up_to_the_limit(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(size))
    assert read_image(ref(str(path), image_generation=None), 100) == bytes(size)


def test_a_file_beyond_the_limit_is_not_read_beyond_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "a.jpg", list[int]()
    path.write_bytes(bytes(1000))

    class Watched(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    monkeypatch.setattr(storage, "open_binary", Watched)
    with pytest.raises(ImageLimitError, match="more than 100 bytes"):
        read_image(ref(str(path), image_generation=None), 100)
    assert asked == [101]


@pytest.mark.parametrize(("written", "whole"), [(50, True), (98, True), (99, False), (5000, False)])
def test_a_file_that_grows_while_it_is_read_is_read_whole_or_refused(
    written: int, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"ab")

    class Growing(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if path.stat().st_size == 2:
                with path.open("ab") as other:
                    other.write(bytes(written))
            return super().read(size)

    monkeypatch.setattr(storage, "open_binary", Growing)
    image = ref(str(path), image_generation=None)
    if whole:
        assert read_image(image, 100) == b"ab" + bytes(written)
    else:
        with pytest.raises(ImageLimitError):
            read_image(image, 100)


def test_what_tells_no_size_is_read_nevertheless(tmp_path: Path) -> None:
    pipe = tmp_path / "a.jpg"
    os.mkfifo(pipe)
    # A daemon: who opens a pipe waits until somebody reads it.
    threading.Thread(target=pipe.write_bytes, args=(b"a picture",), daemon=True).start()
    assert read_image(ref(str(pipe), image_generation=None), 100) == b"a picture"
