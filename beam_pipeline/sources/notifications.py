"""Messages that a bucket publishes when something happens to its objects: to refs. Pure functions.

Cloud Storage sends to Pub/Sub, for every event, the attributes ``eventType``, ``bucketId``, ``objectId``,
``objectGeneration``, ``eventTime`` and, as data, the object's resource in JSON
(https://cloud.google.com/storage/docs/pubsub-notifications). A finished upload is ``OBJECT_FINALIZE``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from beam_pipeline.sources.image_names import is_shown
from schemas.records import ImageRef, ListingProblem

FINALIZE = "OBJECT_FINALIZE"
_EVENTS = frozenset({FINALIZE, "OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE"})
_NEEDED = ("bucketId", "objectId", "objectGeneration")


def ref_of_notification(
    attributes: Mapping[str, str], data: bytes, message_id: str, received_at: datetime
) -> ImageRef | None:
    """Read one message.

    Args:
        attributes: Of the message.
        data: Of the message: the object's resource, of which only ``size`` is used, or nothing.
        message_id: Names a message that names no object.
        received_at: UTC; the event time of a message that has none.

    Returns:
        The object, with its generation; None where the message is about something else than a finished
        image (another event, a sidecar, a folder's placeholder). A message that makes no sense gives a ref
        that carries an ``ingest`` problem, so that it ends as a row and not in a log.
    """
    event = attributes.get("eventType")
    if event in _EVENTS and event != FINALIZE:
        return None
    problems = [] if event == FINALIZE else [f"eventType is {event!r}"]
    problems += [f"no {name}" for name in _NEEDED if not attributes.get(name)]
    bucket, name = attributes.get("bucketId") or "", attributes.get("objectId") or ""
    generation = _number(attributes.get("objectGeneration"))
    if attributes.get("objectGeneration") and generation is None:
        problems.append(f"objectGeneration is {attributes['objectGeneration']!r}")
    event_time = _time(attributes.get("eventTime"))
    if attributes.get("eventTime") and event_time is None:
        problems.append(f"eventTime is {attributes['eventTime']!r}")
    if problems:
        return _malformed(message_id, event_time or received_at, "; ".join(problems))
    if not is_shown(name):
        return None
    return ImageRef(
        image_uri=f"gs://{bucket}/{name}",
        image_generation=generation,
        event_time=event_time or received_at,
        size_bytes=_size(data),
    )


def _malformed(message_id: str, event_time: datetime, reason: str) -> ImageRef:
    problem = ListingProblem("ingest", "IngestError", f"the message is no notification of a bucket: {reason}")
    return ImageRef(image_uri=f"pubsub:{message_id}", event_time=event_time, problem=problem)


def _number(text: str | None) -> int | None:
    # isdecimal alone would take digits of other scripts, and numbers that no column holds.
    is_number = text is not None and text.isascii() and text.isdecimal() and len(text) <= 18
    return int(text or "") if is_number else None


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _size(data: bytes) -> int | None:
    """The size that the resource states; a resource that cannot be read costs nothing but the size."""
    try:
        resource = json.loads(data)
    except ValueError:
        return None
    return _number(str(resource.get("size"))) if isinstance(resource, dict) else None
