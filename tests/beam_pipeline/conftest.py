from __future__ import annotations

from collections.abc import Iterator

import pytest

from beam_pipeline.scoring.engine import release_engines
from beam_pipeline.stores import gcs_access
from tests.beam_pipeline.gcs_server import GcsServer, start_gcs_server


@pytest.fixture(autouse=True)
def _fresh_engines() -> Iterator[None]:
    """Engines are pinned for a process; each test wants its own."""
    release_engines()
    yield
    release_engines()


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    """A client of a server that is gone would be collected with open sockets, in another test."""
    yield
    for client in gcs_access._CLIENTS.values():
        client.close()


@pytest.fixture(scope="module")
def _server() -> Iterator[GcsServer]:
    started = start_gcs_server()
    yield started
    started.stop()


@pytest.fixture
def server(_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    """A storage server of the test's file, which the code under test finds."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _server.host)
    return _server
