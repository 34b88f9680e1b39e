from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from beam_pipeline.sources import watch_feed
from beam_pipeline.sources.inputs import locate
from beam_pipeline.sources.live import StreamLostError
from beam_pipeline.sources.watch_feed import WatchFeed
from schemas.records import ImageRef
from tests.beam_pipeline.gcs_server import GcsServer
from tests.beam_pipeline.helpers import write_photos


class _World:
    """Time that only sleeping moves on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.seconds)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def feed(self, pattern: Path | str, known: list[tuple[str, int]] | None = None) -> WatchFeed:
        return WatchFeed(str(pattern), 10.0, known or [], clock=self.clock, now=self.now, sleep=self.sleep)

    def next(self, feed: WatchFeed) -> list[str]:
        """What the next listing finds."""
        start, found = self.seconds, []
        while self.seconds < start + 10.0:
            found += [Path(image.image_uri).name for image in feed.arrived(100, 1.0)]
        return found


def test_what_lies_there_arrives_and_then_what_is_new(tmp_path: Path) -> None:
    write_photos(tmp_path, 2)
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path)
    assert world.next(feed) == ["photo_0000.jpg", "photo_0001.jpg"]
    assert world.next(feed) == []
    write_photos(tmp_path / "deep", 1, first=7)
    (tmp_path / "photo_0000.json").write_text("{}")
    assert world.next(feed) == ["photo_0007.jpg"]


def test_refs_are_described_when_they_arrive(tmp_path: Path) -> None:
    (path,) = write_photos(tmp_path, 1)
    world = _World()
    world.seconds = 5
    (found,) = world.feed(tmp_path).arrived(10, 1.0)
    assert found.image_generation == path.stat().st_mtime_ns
    assert found.size_bytes == path.stat().st_size


def test_a_changed_file_arrives_again_as_another_version(tmp_path: Path) -> None:
    (path,) = write_photos(tmp_path, 1)
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path)
    world.next(feed)
    os.utime(path, (1, 1))
    assert world.next(feed) == ["photo_0000.jpg"]


def test_a_file_that_is_still_being_written_waits_for_a_later_listing(tmp_path: Path) -> None:
    (path,) = write_photos(tmp_path, 1)
    world = _World()
    feed = world.feed(tmp_path)
    young = world.now().timestamp()
    os.utime(path, (young, young))
    assert feed.arrived(10, 0.1) == []
    os.utime(path, (young + 0.5, young + 0.5))
    assert feed.arrived(10, 1.1) == []
    assert world.seconds < 1.5
    assert [image.image_generation for image in feed.arrived(10, 1.1)] == [path.stat().st_mtime_ns]
    # A second after its last change, not at the next listing.
    assert world.seconds < 3


def test_a_young_file_that_was_a_temporary_name_leaves_nothing(tmp_path: Path) -> None:
    (path,) = write_photos(tmp_path, 1)
    world = _World()
    feed = world.feed(tmp_path)
    assert feed.arrived(10, 0.1) == []
    path.rename(tmp_path / "final.jpg")
    assert world.next(feed) == ["final.jpg"]


def test_a_file_that_changes_during_a_long_listing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = _World()
    world.seconds = 5
    later = world.now().timestamp() + 5
    for path in write_photos(tmp_path, 2):
        os.utime(path, (later, later))

    def slowly(pattern: str) -> Iterator[ImageRef]:
        for found in locate(pattern):
            world.seconds += 5
            yield found

    monkeypatch.setattr(watch_feed, "locate", slowly)
    feed = world.feed(tmp_path)
    assert [Path(image.image_uri).name for image in feed.arrived(10, 1.0)] == ["photo_0001.jpg"]
    monkeypatch.undo()
    assert world.next(feed) == ["photo_0000.jpg"]


def test_a_place_that_cannot_be_listed_for_a_while_is_listed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(pattern: str) -> Iterator[ImageRef]:
        raise OSError(5, "the store answers 503")

    write_photos(tmp_path, 1)
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path)
    monkeypatch.setattr(watch_feed, "locate", away)
    assert world.next(feed) == []
    assert "the store answers 503" in caplog.text
    monkeypatch.undo()
    assert world.next(feed) == ["photo_0000.jpg"]


@pytest.mark.parametrize("pattern", ["", "*.jpg", "[ab]/*.jpg"])
def test_a_folder_that_is_gone_for_half_a_minute_is_lost(
    pattern: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    world = _World()
    feed = world.feed(f"{photos}/{pattern}")
    assert world.next(feed) == []
    photos.rmdir()
    for _ in range(3):
        assert world.next(feed) == []
    assert "cannot be listed: No such file or directory; tried again in 10 s" in caplog.text
    for _ in range(2):
        with pytest.raises(StreamLostError, match="can no longer be listed: No such file or directory"):
            world.next(feed)


def test_a_folder_with_brackets_in_its_name_is_no_pattern_once_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "in[1]"
    folder.mkdir()
    world = _World()
    feed = world.feed(folder)
    assert world.next(feed) == []
    folder.rmdir()
    for _ in range(3):
        assert world.next(feed) == []
    with pytest.raises(StreamLostError, match="can no longer be listed"):
        world.next(feed)


def test_a_folder_that_is_swapped_for_another_is_not_lost(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    world = _World()
    feed = world.feed(photos)
    for first in range(3):
        photos.rename(tmp_path / f"old_{first}")
        assert world.next(feed) + world.next(feed) == []
        write_photos(photos, 1, first=first)
        world.seconds += 5
        assert world.next(feed) == [f"photo_{first:04}.jpg"]


@pytest.mark.parametrize(("number", "lost"), [(errno.EACCES, True), (errno.EPERM, True), (errno.EIO, False)])
def test_rights_that_are_withdrawn_end_a_stream_and_an_absent_store_does_not(
    number: int, lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pattern: str) -> Iterator[ImageRef]:
        raise OSError(number, "refused")

    write_photos(tmp_path, 2)
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path)
    assert len(feed.arrived(1, 1.0)) == 1
    monkeypatch.setattr(watch_feed, "locate", refuse)
    assert len(feed.arrived(1, 1.0)) == 1  # what had arrived
    for _ in range(3):
        assert world.next(feed) == []
    with pytest.raises(StreamLostError, match="refused") if lost else nullcontext():
        assert world.next(feed) == []


def test_a_bucket_that_is_deleted_is_lost(server: GcsServer) -> None:
    uri = "gs://vanishing/in/a.jpg"
    server.upload(uri, b"any")
    world = _World()
    feed = world.feed("gs://vanishing/in/")
    assert world.next(feed) == ["a.jpg"]
    server.delete(uri)
    server.client.bucket("vanishing").delete()
    for _ in range(3):
        assert world.next(feed) == []
    with pytest.raises(StreamLostError, match=r"gs://vanishing/in/: can no longer be listed: .*404"):
        world.next(feed)


def test_after_ceasing_nothing_new_arrives_and_what_has_arrived_does(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path)
    assert len(feed.arrived(1, 1.0)) == 1
    feed.cease()
    write_photos(tmp_path, 1, first=7)
    assert len(feed.arrived(10, 0.0)) == 2
    world.seconds += 60
    assert feed.arrived(10, 0.0) == []


def test_a_file_from_the_future_does_not_wait_for_ever(tmp_path: Path) -> None:
    (path,) = write_photos(tmp_path, 1)
    os.utime(path, (4_000_000_000, 4_000_000_000))
    assert len(_World().feed(tmp_path).arrived(10, 1.0)) == 1


def test_known_versions_do_not_arrive(tmp_path: Path) -> None:
    first, second = write_photos(tmp_path, 2)
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path, [(str(first), first.stat().st_mtime_ns), (str(second), 1)])
    assert world.next(feed) == ["photo_0001.jpg"]
    assert world.next(feed) == []
    assert feed.left_out == 1


def test_what_cannot_be_listed_arrives_once_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path)
    (found,) = feed.arrived(10, 1.0)
    assert found.problem is not None
    assert world.next(feed) == []


def test_many_files_arrive_in_portions_and_none_is_lost(tmp_path: Path) -> None:
    write_photos(tmp_path, 25)
    world = _World()
    world.seconds = 5
    feed = world.feed(tmp_path)
    found = [len(feed.arrived(10, 1.0)) for _ in range(4)]
    assert found == [10, 10, 5, 0]


def test_a_pattern_that_matches_nothing_yet_is_waited_for(tmp_path: Path) -> None:
    world = _World()
    feed = world.feed(tmp_path / "*.jpg")
    assert world.next(feed) == []
    write_photos(tmp_path, 1)
    world.seconds += 5
    assert world.next(feed) == ["photo_0000.jpg"]
