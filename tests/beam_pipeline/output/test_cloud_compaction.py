"""Compaction in a bucket: on a real server, with generations for versions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_pipeline.output import compaction
from beam_pipeline.output.compaction import CompactedDay, CompactionSettings, compact
from beam_pipeline.output.sink import write_chunk
from beam_pipeline.output.summary import summarise
from beam_pipeline.stores import gcs, gcs_access
from beam_pipeline.stores.file_versions import remove_version, version_of
from beam_pipeline.stores.storage import list_files, open_binary
from schemas.records import Outcome, ScoredChunk
from tests.beam_pipeline.gcs_server import GcsServer
from tests.beam_pipeline.helpers import NOW, failure, ref, score

pytestmark = pytest.mark.integration


@pytest.fixture
def output(server: GcsServer, request: pytest.FixtureRequest) -> str:
    bucket = f"tests-{abs(hash(request.node.name))}"
    server.make_bucket(bucket)
    return f"gs://{bucket}/out"


def _write(output: str, *outcomes: Outcome) -> None:
    write_chunk(ScoredChunk(outcomes), output)


def _compact(output: str, **more: Any) -> list[CompactedDay]:
    return list(compact(output, CompactionSettings(10, 0), **{"before": "2026-06-01"} | more))


def _rows(output: str) -> list[tuple[str, int, float]]:
    found: list[tuple[str, int, float]] = []
    for path in list_files(f"{output}/scores", ".parquet"):
        with open_binary(path) as file:
            table = pq.ParquetFile(file).read()
        found += zip(*(table[name].to_pylist() for name in ("image_uri", "attempt", "score")), strict=True)
    return sorted(found)


def test_small_objects_become_few_late_ones_are_merged_and_the_summary_stays(output: str) -> None:
    for number in range(5):
        _write(output, *(score(ref(f"{number}-{n}"), n) for n in range(4)), failure(ref(f"bad-{number}")))
    before = summarise(output)
    assert [(day.table, day.files_before, day.files_after) for day in _compact(output)] == [
        ("scores", 5, 2),
        ("failures", 5, 1),
    ]
    assert replace(summarise(output), score_files=5, failure_files=5) == before
    assert _compact(output) == []
    _write(output, score(ref("0-0", attempt=2), 9.0), score(ref("late", event_time=NOW - timedelta(days=1))))
    assert [(day.date, day.duplicates) for day in _compact(output)] == [("2026-02-28", 0), ("2026-03-01", 1)]
    assert ("0-0", 2, 9.0) in _rows(output)
    assert len(_rows(output)) == 21


def test_an_object_that_was_replaced_meanwhile_stays(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(output, score(ref("a"), 1.0))
    _write(output, score(ref("b"), 2.0))
    put, puts = compaction.put_file, count()

    def racing(uri: str, data: bytes) -> None:
        if not next(puts):
            _write(output, score(ref("a", attempt=2), 3.0))
        put(uri, data)

    monkeypatch.setattr(compaction, "put_file", racing)
    (day,) = _compact(output)
    assert day.left == 1
    assert _rows(output) == [("a", 1, 1.0), ("a", 2, 3.0), ("b", 1, 2.0)]
    (day,) = _compact(output)
    assert (day.left, day.duplicates) == (0, 1)
    assert _rows(output) == [("a", 2, 3.0), ("b", 1, 2.0)]


def test_a_removal_names_the_generation_that_was_seen(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store refuses it where another one came in between; this server does not look at it."""
    uri = f"{output}/a"
    gcs.put(uri, b"1")
    seen = version_of(uri)
    assert seen is not None
    session = gcs_access.client()._http
    asked: list[str] = []
    send = session.request

    def watch(method: str, url: str, *arguments: Any, **known: Any) -> Any:
        asked.append(f"{method} {url}")
        return send(method, url, *arguments, **known)

    monkeypatch.setattr(session, "request", watch)
    gcs.put(uri, b"2")
    assert not remove_version(uri, seen)
    assert not [request for request in asked if request.startswith("DELETE")]
    assert remove_version(uri, str(version_of(uri)))
    (removal,) = [request for request in asked if request.startswith("DELETE")]
    assert "ifGenerationMatch=" in removal


def test_a_large_object_is_read_in_few_requests(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, data = f"{output}/large", bytes(range(256)) * 4 * 6000
    gcs.put(uri, data)
    session = gcs_access.client()._http
    asked: list[str] = []
    send = session.request

    def watch(method: str, url: str, *arguments: Any, **known: Any) -> Any:
        asked.append(url)
        return send(method, url, *arguments, **known)

    monkeypatch.setattr(session, "request", watch)
    with open_binary(uri) as file:
        assert file.read() == data
    assert len(asked) <= 4
