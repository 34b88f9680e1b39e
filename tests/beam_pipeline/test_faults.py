"""What happens to every image when things break at random moments."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_pipeline import running
from beam_pipeline.__main__ import main
from beam_pipeline.output import sink
from beam_pipeline.scoring.engine import Engine
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.stores.storage import list_files, open_binary, put_file
from tests.beam_pipeline.gcs_server import start_gcs_server
from tests.beam_pipeline.helpers import write_photos
from tests.beam_pipeline.jobs import score

pytestmark = pytest.mark.integration
PHOTOS = 60


@pytest.fixture(params=["local", "gs"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty output, on local disk and in a bucket."""
    if request.param == "local":
        yield str(tmp_path / "out")
        return
    server = start_gcs_server()
    try:
        server.make_bucket("scored")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.host)
        yield "gs://scored/out"
    finally:
        server.stop()


def read(output: str, table: str) -> list[dict[str, Any]]:
    """All rows of a table; fails on a partial file."""
    found = []
    for file in list_files(f"{output}/{table}", ".parquet"):
        with open_binary(file) as source:
            found += pq.ParquetFile(source).read().to_pylist()
    return found


class _Breaks:
    """Fails at random: before a file is written, or after it, when only the answer is lost."""

    def __init__(self, seed: int, share: float) -> None:
        self.chance, self.share = random.Random(seed), share
        self.failures = 0

    def __call__(self, uri: str, data: bytes) -> None:
        fate = self.chance.random()
        if fate >= self.share / 2:
            put_file(uri, data)
        if fate < self.share:
            self.failures += 1
            raise OSError("the store is away")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sink_that_fails_at_random_leaves_one_row_a_key_once_the_stream_has_repeated_it(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, PHOTOS)
    (photos / "bad.jpg").write_bytes(b"no image")
    breaks = _Breaks(seed, 0.2)
    monkeypatch.setattr(sink, "put_file", breaks)
    monkeypatch.setattr(running, "RoundPlan", partial(running.RoundPlan, attempts=50, pause_s=0.0))
    arguments = [
        *("--watch", str(photos), "--output", output, "--no-progress", "--chunk-size", "8"),
        *("--stream-shards", "3", "--every", "0.2", "--chunk-wait-s", "0.2", "--stop-when-idle-s", "1.5"),
    ]
    assert main(arguments, FakeScorerFactory()) == 0
    assert breaks.failures > 0
    keys = Counter(row["image_uri"] for table in ("scores", "failures") for row in read(output, table))
    assert keys == Counter(str(path) for path in photos.iterdir())
    if not output.startswith("gs://"):
        assert [path.name for path in Path(output).rglob("*.tmp")] == []


def test_a_batch_job_whose_sink_fails_is_mended_by_running_it_again(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, PHOTOS)
    arguments = ["--input", str(photos), "--output", output, "--no-progress", "--chunk-size", "8"]
    breaks = _Breaks(7, 0.3)
    with monkeypatch.context() as broken:
        broken.setattr(sink, "put_file", breaks)
        with pytest.raises(Exception, match="the store is away"):
            main(arguments, FakeScorerFactory())
    done = len(read(output, "scores"))
    assert done < PHOTOS
    assert main([*arguments, "--skip-scored"], FakeScorerFactory()) == 0
    assert Counter(row["image_uri"] for row in read(output, "scores")) == Counter(
        str(path) for path in photos.iterdir()
    )


def test_chunks_that_fail_at_random_become_failures_and_a_retry_scores_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, PHOTOS)
    whole, chance = Engine.score, random.Random(4)

    def score_some(self: Engine, *more: Any) -> Any:
        if chance.random() < 0.4:
            raise IndexError("a mistake in the engine")
        return whole(self, *more)

    with monkeypatch.context() as broken:
        broken.setattr(Engine, "score", score_some)
        score(photos, output)
    scored, failed = read(str(output), "scores"), read(str(output), "failures")
    assert scored
    assert failed
    assert len(scored) + len(failed) == PHOTOS
    assert all(row["retryable"] for row in failed)
    arguments = ["--retry-failed", "retryable", "--output", str(output), "--no-progress"]
    assert main(arguments, FakeScorerFactory()) == 0
    again = read(str(output), "scores")
    assert Counter(row["image_uri"] for row in again) == Counter(str(path) for path in photos.iterdir())
    assert Counter(row["attempt"] for row in again) == {1: len(scored), 2: len(failed)}
