"""A real Pub/Sub server on this machine: the emulator of the Google Cloud SDK, a Java program."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

PROJECT = "test-project"
_START_S = 60.0
_ACK_DEADLINE_S = 10


class PubsubServer:
    """A running emulator. Give it to the code under test as ``PUBSUB_EMULATOR_HOST`` = ``host``."""

    def __init__(self, process: subprocess.Popen[bytes], host: str, data: str) -> None:
        import grpc
        from google.pubsub_v1 import PublisherClient, SubscriberClient
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        self._process, self._data = process, data
        self.host = host
        channel = grpc.insecure_channel(host)
        self.publisher: Any = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self.subscriber: Any = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    def make_topic(self, topic: str) -> str:
        """Make a topic with one subscription; give the subscription's name."""
        name = f"projects/{PROJECT}/topics/{topic}"
        subscription = f"projects/{PROJECT}/subscriptions/{topic}"
        self.publisher.create_topic(request={"name": name})
        self.subscriber.create_subscription(
            request={"name": subscription, "topic": name, "ack_deadline_seconds": _ACK_DEADLINE_S}
        )
        return subscription

    def publish(self, topic: str, attributes: dict[str, str], data: bytes = b"") -> None:
        self.publisher.publish(
            request={
                "topic": f"projects/{PROJECT}/topics/{topic}",
                "messages": [{"data": data or b"{}", "attributes": attributes}],
            }
        )

    def stop(self) -> None:
        # The start script stays in front of Java: the group ends both.
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()
        shutil.rmtree(self._data, ignore_errors=True)


def pubsub_program() -> str | None:
    """Where the emulator is; None = not on this machine."""
    name = "cloud-pubsub-emulator"
    if found := shutil.which(name):
        return found
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return None
    place = Path(gcloud).resolve().parents[1] / "platform" / "pubsub-emulator" / "bin" / name
    return str(place) if place.exists() else None


def start_pubsub_server() -> PubsubServer:
    """Start an emulator on a free port of the loopback; skips the test where there is none."""
    program = pubsub_program()
    if program is None or shutil.which("java") is None:
        pytest.skip("the Pub/Sub emulator (Google Cloud SDK) and Java are not here")
    pytest.importorskip("google.pubsub_v1", reason="google-cloud-pubsub is not here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tempfile.mkdtemp(prefix="pubsub-")
    process = subprocess.Popen(
        [program, "--host=127.0.0.1", f"--port={port}", f"--data-dir={data}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = PubsubServer(process, f"127.0.0.1:{port}", data)
    try:
        _wait_for(port, process)
    except BaseException:
        server.stop()
        raise
    return server


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    gives_up = time.monotonic() + _START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError as error:
            if process.poll() is not None:
                raise RuntimeError(f"the emulator ended with {process.returncode}") from error
            if time.monotonic() > gives_up:
                raise
            time.sleep(0.1)
