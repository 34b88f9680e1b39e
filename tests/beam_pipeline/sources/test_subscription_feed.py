"""The feed of a subscription, on a client that plays the server."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("google.api_core")
from google.api_core.exceptions import (
    InternalServerError,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
    Unauthenticated,
)
from google.auth.exceptions import RefreshError, TransportError

from beam_pipeline.sources import subscription_feed
from beam_pipeline.sources.live import StreamLostError
from beam_pipeline.sources.seen_keys import SeenKeys
from beam_pipeline.sources.subscription_feed import SubscriptionFeed, subscription_problem
from schemas.records import ImageRef
from tests.beam_pipeline.fake_subscriber import FakeSubscriber

NAME = "projects/project/subscriptions/photos"


def take(feed: SubscriptionFeed, count: int) -> list[ImageRef]:
    """Wait for so many images."""
    found: list[ImageRef] = []
    end = time.monotonic() + 20
    while len(found) < count and time.monotonic() < end:
        found += feed.arrived(count - len(found), 0.1)
    return found


def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def server() -> FakeSubscriber:
    return FakeSubscriber()


def make(
    server: FakeSubscriber, most: int = 100, horizon_s: float = 60.0, clock: Any = time.monotonic
) -> Any:
    return SubscriptionFeed(NAME, most, horizon_s, client=server, clock=clock)


def test_a_message_is_acknowledged_when_its_image_is_settled_and_not_before(server: FakeSubscriber) -> None:
    feed = make(server)
    server.put("1", "a.jpg")
    server.put("2", "b.jpg")
    first, second = take(feed, 2)
    assert server.acknowledged == []
    feed.settle([second])
    assert server.acknowledged == ["2"]
    feed.settle([first])
    assert server.acknowledged == ["2", "1"]
    feed.close()


def test_a_generation_announced_twice_arrives_once_and_both_messages_are_settled(
    server: FakeSubscriber,
) -> None:
    feed = make(server)
    for ack_id in "12":
        server.put(ack_id)
    (image,) = take(feed, 1)
    until(lambda: len(server.deadlines) == 2)
    feed.settle([image])
    assert sorted(server.acknowledged) == ["1", "2"]
    server.put("3")
    until(lambda: "3" in server.acknowledged)
    assert feed.arrived(1, 0.05) == []
    assert feed.note() == "2 repeated notifications"
    feed.close()


def test_generations_of_one_object_are_images_of_their_own_in_any_order(server: FakeSubscriber) -> None:
    feed = make(server)
    server.put("1", generation=7)
    server.put("2", generation=3)
    assert sorted(image.key for image in take(feed, 2)) == [("gs://b/a.jpg", 3), ("gs://b/a.jpg", 7)]
    feed.close()


def test_other_events_are_acknowledged_and_counted(server: FakeSubscriber) -> None:
    feed = make(server)
    server.put("1", eventType="OBJECT_DELETE")
    server.put("2", "notes.txt")
    until(lambda: sorted(server.acknowledged) == ["1", "2"])
    assert feed.note() == "2 notifications about something else"
    feed.close()


def test_a_message_that_makes_no_sense_arrives_as_a_problem_and_is_settled_like_an_image(
    server: FakeSubscriber,
) -> None:
    feed = make(server)
    server.put("1", bucketId="")
    (image,) = take(feed, 1)
    assert image.problem is not None
    feed.settle([image])
    assert server.acknowledged == ["1"]
    feed.close()


def test_no_more_is_pulled_than_may_be_unsettled(server: FakeSubscriber) -> None:
    feed = make(server, most=5)
    for number in range(20):
        server.put(str(number), f"{number}.jpg")
    first = take(feed, 5)
    assert feed.arrived(5, 0.3) == []
    assert len(server.waiting) == 15
    feed.settle(first[:2])
    assert len(take(feed, 2)) == 2
    assert len(server.waiting) == 13
    feed.close()


def test_leases_begin_with_the_pull_and_are_renewed_until_settled(server: FakeSubscriber) -> None:
    now = [0.0]
    feed = make(server, clock=lambda: now[0])
    server.put("1")
    (image,) = take(feed, 1)
    until(lambda: server.deadlines == [("1", 60)])
    now[0] = 21.0
    until(lambda: server.deadlines == [("1", 60)] * 2)
    feed.settle([image])
    now[0] = 42.0
    time.sleep(0.1)
    assert server.deadlines == [("1", 60)] * 2
    feed.close()


def test_what_is_not_settled_is_given_back_at_the_end(server: FakeSubscriber) -> None:
    feed = make(server)
    server.put("1")
    take(feed, 1)
    feed.close()
    assert server.deadlines[-1] == ("1", 0)
    assert server.acknowledged == []


@pytest.mark.parametrize(
    "trouble",
    [
        NotFound("there is no such subscription"),
        PermissionDenied("not yours"),
        Unauthenticated("who are you"),
    ],
)
def test_what_lasts_is_told_in_a_sentence_to_who_waits_as_often_as_asked(
    server: FakeSubscriber, trouble: Exception
) -> None:
    server.trouble = trouble
    feed = make(server)
    until(lambda: not feed._thread.is_alive())
    for _ in range(2):
        with pytest.raises(StreamLostError) as caught:
            feed.arrived(1, 0.0)
        reason = getattr(trouble, "message", None) or str(trouble)
        assert str(caught.value) == f"--subscription {NAME}: can no longer be read: {reason}"
    feed.close()


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (RefreshError("the key was deleted"), True),
        (RefreshError("busy", retryable=True), False),
        (TransportError("no route to the token server"), False),
        (None, False),
    ],
)
def test_refused_credentials_end_a_stream_although_grpc_calls_them_unavailable(
    server: FakeSubscriber, monkeypatch: pytest.MonkeyPatch, said: Exception | None, ends: bool
) -> None:
    asked = []

    def refresh(request: object) -> None:
        asked.append(request)
        if said is not None:
            raise said

    monkeypatch.setattr(subscription_feed, "_PULL_S", 0.01)
    server.transport = SimpleNamespace(_credentials=SimpleNamespace(refresh=refresh))
    server.trouble = ServiceUnavailable("Getting metadata from plugin failed with error: invalid_grant")
    feed = make(server)
    until(lambda: len(asked) > 2 or not feed._thread.is_alive())
    if ends:
        with pytest.raises(StreamLostError, match="the key was deleted"):
            feed.arrived(1, 0.0)
    else:
        assert feed._thread.is_alive()
        assert feed.arrived(1, 0.0) == []
    feed.close()


def test_what_was_pulled_before_a_subscription_is_gone_is_given_and_settled_first(
    server: FakeSubscriber,
) -> None:
    feed = make(server)
    for number in range(4):
        server.put(str(number), f"{number}.jpg")
    first = take(feed, 2)
    until(lambda: len(server.deadlines) == 4)
    server.trouble = NotFound("gone")
    feed.settle(first)
    until(lambda: not feed._thread.is_alive())
    assert [image.image_uri for image in feed.arrived(10, 0.1)] == ["gs://b/2.jpg", "gs://b/3.jpg"]
    with pytest.raises(StreamLostError, match="gone"):
        feed.arrived(10, 0.1)
    feed.close()


def test_a_subscription_whose_topic_is_gone_is_told_after_a_minute_of_silence(server: FakeSubscriber) -> None:
    now = [0.0]
    feed = make(server, clock=lambda: now[0])
    server.topic = "_deleted-topic_"
    server.put("1")
    assert len(take(feed, 1)) == 1
    now[0] = 59.0
    assert feed.arrived(1, 0.2) == []
    now[0] = 60.0
    until(lambda: not feed._thread.is_alive())
    with pytest.raises(StreamLostError, match="its topic was deleted"):
        feed.arrived(1, 0.0)
    feed.close()


def test_a_subscription_that_cannot_be_read_is_told_before_a_stream_begins(
    server: FakeSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_feed, "subscriber", lambda: server)
    assert subscription_problem(NAME) is None
    server.topic = "_deleted-topic_"
    assert "its topic was deleted" in str(subscription_problem(NAME))
    server.trouble = PermissionDenied("not yours")
    assert subscription_problem(NAME) == f"--subscription {NAME}: not yours"


def test_a_server_that_is_briefly_away_ends_nothing_and_is_told_of(
    server: FakeSubscriber, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscription_feed, "_PULL_S", 0.01)
    feed = make(server)
    server.put("1")
    (image,) = take(feed, 1)
    server.trouble = InternalServerError("try later")
    until(lambda: "try later" in caplog.text)
    feed.settle([image])
    assert server.acknowledged == []
    server.trouble = None
    server.put("again")
    until(lambda: server.acknowledged == ["again"])
    server.put("2", "b.jpg")
    assert len(take(feed, 1)) == 1
    feed.close()


def test_after_ceasing_nothing_more_is_pulled_and_what_was_is_given(server: FakeSubscriber) -> None:
    feed = make(server)
    server.put("1")
    until(lambda: server.deadlines)
    feed.cease()
    time.sleep(0.2)
    server.put("2", "b.jpg")
    assert [image.image_uri for image in take(feed, 1)] == ["gs://b/a.jpg"]
    assert feed.arrived(1, 0.3) == []
    assert len(server.waiting) == 1
    feed.close()


def test_keys_are_forgotten_after_the_horizon() -> None:
    now = [0.0]
    seen = SeenKeys(10.0, lambda: now[0])
    assert seen.is_new("a")
    now[0] = 6.0
    assert seen.is_new("b")
    assert not seen.is_new("a")
    now[0] = 10.0
    assert seen.is_new("a")
    assert not seen.is_new("b")
    assert len(seen) == 2
