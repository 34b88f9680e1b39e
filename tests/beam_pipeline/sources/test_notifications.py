from __future__ import annotations

from datetime import UTC, datetime

import pytest

from beam_pipeline.sources.notifications import ref_of_notification
from schemas.records import ImageRef
from tests.beam_pipeline.helpers import NOW

ATTRIBUTES = {
    "eventType": "OBJECT_FINALIZE",
    "bucketId": "photos",
    "objectId": "2026/a b.jpg",
    "objectGeneration": "1772366400000001",
    "eventTime": "2026-02-28T23:59:59.250000Z",
    "payloadFormat": "JSON_API_V1",
}


def read(data: bytes = b"", **changed: str | None) -> ImageRef | None:
    attributes = {name: value for name, value in (ATTRIBUTES | changed).items() if value is not None}
    return ref_of_notification(attributes, data, "17", NOW)


def test_a_finished_upload_is_an_image_with_generation_time_and_size() -> None:
    assert read(b'{"size": "1234", "name": "x"}') == ImageRef(
        image_uri="gs://photos/2026/a b.jpg",
        image_generation=1772366400000001,
        event_time=datetime(2026, 2, 28, 23, 59, 59, 250000, tzinfo=UTC),
        size_bytes=1234,
    )


@pytest.mark.parametrize("event", ["OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE"])
def test_other_events_are_no_images(event: str) -> None:
    assert read(eventType=event) is None


@pytest.mark.parametrize("name", ["folder/", "photo.json", "deep/.hidden.jpg", ".thumbs/a.jpg", "notes.txt"])
def test_what_a_folder_walk_would_not_offer_is_no_image(name: str) -> None:
    assert read(objectId=name) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"eventType": None}, "eventType is None"),
        ({"eventType": "SOMETHING"}, "eventType is 'SOMETHING'"),
        ({"bucketId": None, "objectId": ""}, "no bucketId; no objectId"),
        ({"objectGeneration": "x1"}, "objectGeneration is 'x1'"),
        ({"objectGeneration": "9" * 30}, "objectGeneration is"),
        ({"eventTime": "yesterday"}, "eventTime is 'yesterday'"),
    ],
)
def test_a_message_that_makes_no_sense_becomes_a_row_that_says_why(
    changed: dict[str, str | None], reason: str
) -> None:
    found = read(**changed)
    assert found is not None
    assert found.problem is not None
    assert (found.problem.stage, found.problem.error_type) == ("ingest", "IngestError")
    assert reason in found.problem.message
    assert found.image_uri == "pubsub:17"
    assert found.event_time is not None


def test_every_reason_is_named() -> None:
    found = ref_of_notification({}, b"junk", "9", NOW)
    assert found is not None
    assert found.problem is not None
    for name in ("eventType", "bucketId", "objectId", "objectGeneration"):
        assert name in found.problem.message
    assert found.event_time == NOW


@pytest.mark.parametrize("data", [b"", b"junk", b"[]", b'{"size": "many"}', b"\xff\xfe"])
def test_a_resource_that_cannot_be_read_costs_the_size_only(data: bytes) -> None:
    found = read(data)
    assert found is not None
    assert found.problem is None
    assert found.size_bytes is None


def test_a_notification_without_time_gets_the_time_of_its_arrival() -> None:
    found = read(eventTime=None)
    assert found is not None
    assert found.event_time == NOW
