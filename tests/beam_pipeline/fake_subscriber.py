"""A subscriber client that plays its server, too."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("google.api_core")
from google.api_core.exceptions import DeadlineExceeded


@dataclass
class FakeSubscriber:
    """Delivers what is put; remembers what it is told.

    Attributes:
        trouble: Raised by every request.
        topic: Of the subscription.
        transport: Holds the credentials, as a client's does.
    """

    waiting: deque[Any] = field(default_factory=deque)
    acknowledged: list[str] = field(default_factory=list)
    deadlines: list[tuple[str, int]] = field(default_factory=list)
    trouble: Exception | None = None
    topic: str = "projects/project/topics/photos"
    transport: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, ack_id: str, name: str = "a.jpg", generation: int = 1, **changed: str) -> None:
        attributes = {
            "eventType": "OBJECT_FINALIZE",
            "bucketId": "b",
            "objectId": name,
            "objectGeneration": str(generation),
            "eventTime": "2026-03-01T12:00:00Z",
        }
        message = SimpleNamespace(attributes=attributes | changed, data=b"", message_id=f"m{ack_id}")
        with self.lock:
            self.waiting.append(SimpleNamespace(ack_id=ack_id, message=message))

    def pull(self, *, request: dict[str, Any], timeout: float, retry: Any) -> Any:
        self._check()
        with self.lock:
            count = min(len(self.waiting), request["max_messages"])
            found = [self.waiting.popleft() for _ in range(count)]
        if not found:
            time.sleep(0.01)
            raise DeadlineExceeded("nothing")
        return SimpleNamespace(received_messages=found)

    def acknowledge(self, *, request: dict[str, Any]) -> None:
        self._check()
        self.acknowledged += request["ack_ids"]

    def modify_ack_deadline(self, *, request: dict[str, Any]) -> None:
        self._check()
        self.deadlines += [(name, request["ack_deadline_seconds"]) for name in request["ack_ids"]]

    def get_subscription(self, *, request: dict[str, Any], timeout: float, retry: Any) -> Any:
        self._check()
        return SimpleNamespace(topic=self.topic)

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble
