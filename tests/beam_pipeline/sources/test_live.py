"""The loop of a local stream, without Beam and without waiting."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from beam_pipeline.sources.live import RoundPlan, StreamLostError, follow
from schemas.errors import ConfigurationError
from schemas.records import ImageRef
from tests.beam_pipeline.helpers import ref


class _Feed:
    """Brings refs at set times of a clock that only waiting moves on."""

    def __init__(self, arrivals: Sequence[tuple[float, ImageRef]]) -> None:
        self.time = 0.0
        self.left_out = 0
        self.arrivals = list(arrivals)
        self.settled: list[ImageRef] = []
        self.endless = False
        self.lost_at: float | None = None

    def clock(self) -> float:
        return self.time

    def arrived(self, most: int, timeout_s: float) -> list[ImageRef]:
        if self.endless:
            return [ref(f"{len(self.settled)}-{number}.jpg") for number in range(most)]
        if not self.arrivals and self.lost_at is not None and self.time >= self.lost_at:
            raise StreamLostError("gone")
        if not self.arrivals or self.arrivals[0][0] > self.time + timeout_s:
            self.time += timeout_s
            return []
        self.time = max(self.time, self.arrivals[0][0])
        found = [image for time, image in self.arrivals[:most] if time <= self.time]
        del self.arrivals[: len(found)]
        return found

    def settle(self, refs: Sequence[ImageRef]) -> None:
        self.settled += refs

    def cease(self) -> None:
        self.endless = False

    def close(self) -> None:
        pass

    def note(self) -> str:
        return ""


class _Rounds:
    def __init__(self, feed: _Feed, failing: Sequence[BaseException | None] = ()) -> None:
        self.feed = feed
        self.failing = list(failing)
        self.refs: list[tuple[ImageRef, ...]] = []
        self.times: list[float] = []

    def __call__(self, refs: tuple[ImageRef, ...]) -> None:
        self.refs.append(refs)
        self.times.append(self.feed.time)
        error = self.failing.pop(0) if self.failing else None
        if error is not None:
            raise error


PLAN = RoundPlan(images=4, wait_s=10, idle_s=60, pause_s=0.0)


def run(feed: _Feed, rounds: _Rounds, plan: RoundPlan = PLAN, stop: threading.Event | None = None) -> int:
    return follow(feed, rounds, plan, stop or threading.Event(), clock=feed.clock)


def images(*times: float) -> list[tuple[float, ImageRef]]:
    return [(time, ref(f"{number}.jpg")) for number, time in enumerate(times)]


def test_a_round_closes_when_it_is_full() -> None:
    feed = _Feed(images(1, 1, 2, 3, 3, 3))
    rounds = _Rounds(feed)
    run(feed, rounds)
    assert [len(refs) for refs in rounds.refs] == [4, 2]
    assert rounds.times[0] == 3


def test_a_round_closes_a_set_time_after_its_first_image() -> None:
    feed = _Feed(images(1, 9, 30))
    rounds = _Rounds(feed)
    run(feed, rounds)
    assert [len(refs) for refs in rounds.refs] == [2, 1]
    assert rounds.times == pytest.approx([11, 40], abs=0.5)


def test_every_image_is_in_one_round_and_settled_after_it() -> None:
    feed = _Feed(images(*(number * 0.7 for number in range(100))))
    rounds = _Rounds(feed)
    assert run(feed, rounds) == len(rounds.refs)
    assert [image for refs in rounds.refs for image in refs] == feed.settled
    assert len(set(feed.settled)) == 100


def test_an_idle_stream_ends_only_if_it_is_told_to() -> None:
    feed = _Feed(images(1, 500))
    rounds = _Rounds(feed)
    run(feed, rounds, RoundPlan(images=4, wait_s=10, idle_s=400, pause_s=0.0))
    assert [len(refs) for refs in rounds.refs] == [1]
    assert feed.time == pytest.approx(411, abs=1)


def test_a_stopped_stream_scores_what_has_arrived_and_ends() -> None:
    feed, stop = _Feed(images(1, 1, 1, 1, 1, 1, 1000)), threading.Event()
    rounds = _Rounds(feed)

    def run_round(refs: tuple[ImageRef, ...]) -> None:
        stop.set()
        rounds(refs)

    follow(feed, run_round, RoundPlan(images=4, wait_s=10), stop, clock=feed.clock)
    assert [len(refs) for refs in rounds.refs] == [4, 2]
    assert len(feed.settled) == 6


def test_a_stopped_stream_ends_though_its_source_never_runs_dry() -> None:
    feed, stop = _Feed([]), threading.Event()
    feed.endless = True
    rounds = _Rounds(feed)

    def run_round(refs: tuple[ImageRef, ...]) -> None:
        stop.set()
        rounds(refs)
        assert len(rounds.refs) < 10

    follow(feed, run_round, PLAN, stop, clock=feed.clock)
    assert [len(refs) for refs in rounds.refs] == [4]


def test_a_round_that_fails_is_run_again_with_the_same_images_and_settled_once() -> None:
    feed = _Feed(images(1, 1))
    rounds = _Rounds(feed, [OSError("away"), OSError("still")])
    run(feed, rounds)
    assert len(rounds.refs) == 3
    assert len(set(rounds.refs)) == 1
    assert len(feed.settled) == 2


def test_a_round_that_always_fails_ends_the_stream_with_its_images_unsettled() -> None:
    feed = _Feed(images(1))
    rounds = _Rounds(feed, [OSError("away")] * 9)
    with pytest.raises(OSError, match="away"):
        run(feed, rounds)
    assert len(rounds.refs) == PLAN.attempts
    assert feed.settled == []


@pytest.mark.parametrize("lost_at", [1.0, 5.0, 50.0])
def test_a_stream_that_is_lost_scores_and_settles_what_has_arrived_first(lost_at: float) -> None:
    feed = _Feed(images(1, 1))
    feed.lost_at = lost_at
    rounds = _Rounds(feed)
    with pytest.raises(StreamLostError, match="gone"):
        run(feed, rounds)
    assert [len(refs) for refs in rounds.refs] == [2]
    assert len(feed.settled) == 2


def test_a_configuration_error_ends_the_stream_at_once() -> None:
    feed = _Feed(images(1))
    rounds = _Rounds(feed, [ConfigurationError("wrong")])
    with pytest.raises(ConfigurationError):
        run(feed, rounds)
    assert len(rounds.refs) == 1
