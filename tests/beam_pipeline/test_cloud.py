"""A bucket that fills while it is scored: a storage server, a Pub/Sub server, and the job between them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from beam_pipeline.__main__ import main
from beam_pipeline.output.queries import ddl
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.stores.gcs_file_system import GcsFileSystem
from beam_pipeline.stores.storage import list_files, open_binary
from tests.beam_pipeline.gcs_server import Events, GcsServer, start_gcs_server
from tests.beam_pipeline.pubsub_server import PROJECT, PubsubServer, start_pubsub_server
from tests.odd_files import encoded, picture

pytestmark = pytest.mark.integration
TOPIC = "photos"


@dataclass(frozen=True)
class Cloud:
    gcs: GcsServer
    pubsub: PubsubServer
    subscription: str

    @property
    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.gcs.host, "PUBSUB_EMULATOR_HOST": self.pubsub.host}


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    pubsub = start_pubsub_server()
    try:
        subscription = pubsub.make_topic(TOPIC)
        gcs = start_gcs_server(events=Events(PROJECT, TOPIC, pubsub.host, "photos"))
        try:
            gcs.make_bucket("photos")
            gcs.make_bucket("scored")
            made = Cloud(gcs, pubsub, subscription)
            for name, value in made.environment.items():
                monkeypatch.setenv(name, value)
            yield made
        finally:
            gcs.stop()
    finally:
        pubsub.stop()


def stream(cloud: Cloud, *more: str) -> list[str]:
    return [
        *("--subscription", cloud.subscription, "--output", "gs://scored/out", "--no-progress"),
        *("--chunk-wait-s", "1", "--stop-when-idle-s", "5", *more),
    ]


def jpeg(seed: int) -> bytes:
    return encoded(picture(40, 30, seed=seed), "JPEG")


def read(table: str) -> list[dict[str, Any]]:
    found = []
    for file in list_files(f"gs://scored/out/{table}", ".parquet"):
        with open_binary(file) as source:
            found += pq.ParquetFile(source).read().to_pylist()
    return found


_IN_VIEWS = """
SELECT count(*), count(DISTINCT (image_uri, image_generation)) FROM (
  SELECT image_uri, image_generation FROM image_scores
  UNION ALL SELECT image_uri, image_generation FROM image_failures
)"""


def query(output: str, sql: str) -> list[Any]:
    connection = duckdb.connect()
    connection.register_filesystem(GcsFileSystem())
    connection.execute(ddl(output))
    found: list[Any] = connection.execute(sql).fetchall()
    return found


def keys(table: str) -> Counter[tuple[str, int]]:
    return Counter((row["image_uri"], row["image_generation"]) for row in read(table))


@dataclass(frozen=True)
class Uploaded:
    """What happened in a bucket: key → whether it is a picture, in order of upload; what was deleted."""

    generations: dict[tuple[str, int], bool]
    deleted: set[str]


def fill(cloud: Cloud, count: int, seed: int = 0, pause_s: float = 0.0) -> Uploaded:
    """Upload images, one in ten of them broken, some over earlier ones, and delete some."""
    chance = random.Random(seed)
    generations: dict[tuple[str, int], bool] = {}
    deleted: set[str] = set()
    for number in range(count):
        overwrites = bool(generations) and chance.random() < 0.15
        uri = (
            chance.choice(list(generations))[0] if overwrites else f"gs://photos/{number % 7}/{number:04}.jpg"
        )
        good = chance.random() >= 0.1
        generations[uri, cloud.gcs.upload(uri, jpeg(number) if good else b"no image")] = good
        deleted.discard(uri)
        if chance.random() < 0.05:
            cloud.gcs.delete(uri)
            deleted.add(uri)
        time.sleep(pause_s)
    return Uploaded(generations, deleted)


def test_every_generation_that_a_bucket_announces_is_one_row(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Uploaded] = []
    filling = threading.Thread(target=lambda: done.append(fill(cloud, 500, pause_s=0.01)))
    filling.start()
    assert main(stream(cloud, "--chunk-size", "16")) == 0  # the embedded model
    filling.join()
    (uploaded,) = done
    scored, failed = keys("scores"), keys("failures")
    assert scored + failed == Counter(dict.fromkeys(uploaded.generations, 1))
    assert all(uploaded.generations[key] for key in scored)
    reasons = Counter((row["stage"], row["error_type"]) for row in read("failures"))
    broken = [key for key, good in uploaded.generations.items() if not good]
    lost = sum(count for (stage, _), count in reasons.items() if stage == "fetch")
    # A broken image that was gone before it was read failed for that reason.
    assert len(failed) == lost + sum(key not in _gone() for key in broken)
    capsys.readouterr()
    assert main(["query", "gs://scored/out", "SELECT count(*) FROM image_scores"]) == 0
    assert str(len(scored)) in capsys.readouterr().out.split()
    assert query("gs://scored/out", _IN_VIEWS) == [(500, 500)]
    print(f"{len(uploaded.generations)} generations: {len(scored)} scored, failed: {dict(reasons)}")


def _gone() -> set[tuple[str, int]]:
    return {(r["image_uri"], r["image_generation"]) for r in read("failures") if r["stage"] == "fetch"}


def test_a_generation_that_is_gone_before_it_is_read_fails_saying_how(cloud: Cloud) -> None:
    first = cloud.gcs.upload("gs://photos/replaced.jpg", jpeg(1))
    second = cloud.gcs.upload("gs://photos/replaced.jpg", jpeg(2))
    third = cloud.gcs.upload("gs://photos/deleted.jpg", jpeg(3))
    cloud.gcs.delete("gs://photos/deleted.jpg")
    assert main(stream(cloud), FakeScorerFactory()) == 0
    assert keys("scores") == {("gs://photos/replaced.jpg", second): 1}
    failures = {row["image_generation"]: row for row in read("failures")}
    assert set(failures) == {first, third}
    assert "superseded" in failures[first]["message"]
    assert "deleted" in failures[third]["message"]
    assert not failures[first]["retryable"]


def _announce(cloud: Cloud, name: str, generation: int, **changed: str) -> None:
    attributes = {
        "eventType": "OBJECT_FINALIZE",
        "bucketId": "photos",
        "objectId": name,
        "objectGeneration": str(generation),
        "eventTime": "2026-03-01T12:00:00Z",
    }
    cloud.pubsub.publish(TOPIC, attributes | changed)


def test_repeated_and_unordered_notifications_give_one_row_a_generation_and_junk_gives_a_failure(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    generations = {n: cloud.gcs.upload(f"gs://photos/{n}.jpg", jpeg(n)) for n in range(12)}
    for number in reversed(range(12)):
        for _ in range(3):
            _announce(cloud, f"{number}.jpg", generations[number])
    _announce(cloud, "x.jpg", 1, eventType="OBJECT_DELETE")
    cloud.pubsub.publish(TOPIC, {"hello": "world"}, b"not a notification")
    assert main(stream(cloud), FakeScorerFactory()) == 0
    assert keys("scores") == {(f"gs://photos/{n}.jpg", g): 1 for n, g in generations.items()}
    (junk,) = read("failures")
    assert (junk["stage"], junk["error_type"]) == ("ingest", "IngestError")
    assert "repeated notifications" in capsys.readouterr().err


def test_a_subscription_that_is_not_there_is_said_before_anything_starts(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = cloud.subscription + "-missing"
    assert main([*stream(cloud), "--subscription", missing], FakeScorerFactory()) == 2
    assert f"--subscription {missing}: " in capsys.readouterr().err


_JOB = """
import sys
from beam_pipeline.sources import subscription_feed
from beam_pipeline.__main__ import main
from beam_pipeline.scoring.fakes import FakeScorer, FakeScorerFactory
subscription_feed._LEASE_S, subscription_feed._RENEW_S = 5, 2.0
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], FakeScorerFactory(FakeScorer(delay_ms=20))))
"""


def _until(condition: Callable[[], bool], job: subprocess.Popen[bytes]) -> None:
    while not condition() and job.poll() is None:
        time.sleep(0.1)


def test_a_stream_killed_at_random_moments_loses_no_image(cloud: Cloud, tmp_path: Path) -> None:
    uploaded = fill(cloud, 120, seed=3)
    chance = random.Random(5)
    command = [sys.executable, "-c", _JOB, *stream(cloud, "--chunk-size", "4", "--stream-shards", "2")]
    for kills in range(3):
        job = subprocess.Popen(command, env=os.environ | cloud.environment)
        before = len(read("scores"))
        _until(lambda before=before: len(read("scores")) > before, job)  # type: ignore[misc]
        time.sleep(chance.random())
        job.send_signal(signal.SIGKILL)
        job.wait()
        print(f"kill {kills + 1}: {len(read('scores')) + len(read('failures'))} rows so far")
    # What the dead held comes again when its lease is over.
    assert main(stream(cloud, "--stop-when-idle-s", "12"), FakeScorerFactory()) == 0
    assert (keys("scores") | keys("failures")).keys() == uploaded.generations.keys()
    assert query("gs://scored/out", _IN_VIEWS) == [(len(uploaded.generations),) * 2]
