from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from beam_pipeline.watch_feed import WatchFeed
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
    os.utime(path, (young + 10, young + 10))
    world.seconds = 9.9
    assert feed.arrived(10, 0.2) == []
    assert world.next(feed) == ["photo_0000.jpg"]


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
