"""The unbounded stages on a real runner, and whole local streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from beam_pipeline.__main__ import main
from beam_pipeline.job import Job
from beam_pipeline.options import ScoringOptions
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.scoring.handler import NAMESPACE
from beam_pipeline.sources import stream_sources
from beam_pipeline.sources.inputs import locate
from beam_pipeline.sources.stream_sources import IGNORED, DropSeen, WatchPlace, refs_of_file, refs_of_message
from beam_pipeline.transforms import ChunkStream
from schemas.records import Chunk, ImageRef
from tests.beam_pipeline.helpers import NOW, ref, rows, write_photos
from tests.beam_pipeline.jobs import query

pytestmark = pytest.mark.integration


def test_a_stream_s_chunks_hold_every_ref_once_and_never_too_many() -> None:
    refs = [ref(f"gs://b/{number}.jpg", image_generation=number % 3) for number in range(1003)]

    def check(chunks: list[Chunk]) -> None:
        assert Counter(image for chunk in chunks for image in chunk.refs) == Counter(refs)
        assert max(len(chunk.refs) for chunk in chunks) <= 50
        assert all(list(chunk.refs) == sorted(chunk.refs, key=lambda image: image.key) for chunk in chunks)

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        made = pipeline | beam.Create(refs).with_output_types(ImageRef)
        assert_that(made | ChunkStream(50, 30.0, 4), check)


def test_what_was_seen_is_dropped_by_key_before_any_window() -> None:
    first, second = ref("gs://b/a.jpg", image_generation=1), ref("gs://b/a.jpg", image_generation=2)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        made = pipeline | beam.Create([first, second, first, first, second]).with_output_types(ImageRef)
        assert_that(made | DropSeen(60.0), equal_to([first, second]))


def test_messages_become_refs_or_problems_and_others_are_counted() -> None:
    good = {
        "eventType": "OBJECT_FINALIZE",
        "bucketId": "b",
        "objectId": "a.jpg",
        "objectGeneration": "5",
        "eventTime": "2026-03-01T12:00:00Z",
    }
    messages = [
        SimpleNamespace(attributes=good, data=b"", message_id="1"),
        SimpleNamespace(attributes=good | {"eventType": "OBJECT_DELETE"}, data=b"", message_id="2"),
        SimpleNamespace(attributes=None, data=None, message_id=None),
    ]

    def check(refs: list[ImageRef]) -> None:
        (scored,) = [image for image in refs if image.problem is None]
        (problem,) = [image for image in refs if image.problem is not None]
        assert scored.key == ("gs://b/a.jpg", 5)
        assert problem.image_uri == "pubsub:unnamed"

    pipeline = beam.Pipeline(runner=FnApiRunner())
    assert_that(pipeline | beam.Create(messages) | beam.FlatMap(refs_of_message), check)
    result = pipeline.run()
    result.wait_until_finish()
    (counter,) = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE).with_name(IGNORED))[
        "counters"
    ]
    assert counter.committed == 1


@pytest.mark.parametrize(
    "source", [{"subscription": "projects/project/subscriptions/photos"}, {"watch": "gs://photos/2026/"}]
)
def test_batch_and_stream_have_the_same_stages_but_for_their_source_and_how_chunks_close(
    source: dict[str, str],
) -> None:
    def stages(**options: object) -> set[str]:
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(["--streaming"]))
        job = Job(ScoringOptions(output="o", **options), FakeScorerFactory(), NOW)  # type: ignore[arg-type]
        build_pipeline(pipeline, job)
        return set(pipeline.applied_labels)

    def common(labels: set[str]) -> set[str]:
        return {name for name in labels if name.split("/")[0] not in ("ReadImageRefs", "ChunkRefs")}

    batch, stream = stages(input=("x",)), stages(**source)
    assert common(batch) == common(stream)
    assert {name.split("/")[0] for name in batch} == {name.split("/")[0] for name in stream}
    assert "ReadImageRefs/DropSeen/Once/DeduplicateFn" in stream


@pytest.mark.parametrize(
    ("place", "pattern"),
    [("gs://b/in", "gs://b/in/**"), ("gs://b/in/", "gs://b/in/**"), ("gs://b/*.jpg", "gs://b/*.jpg")],
)
def test_a_watched_place_is_a_folder_unless_it_is_a_pattern(
    place: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plain = stream_sources.MatchContinuously

    def matched(file_pattern: str, **options: Any) -> Any:
        asked.append(file_pattern)
        return plain(file_pattern, **options)

    monkeypatch.setattr(stream_sources, "MatchContinuously", matched)
    _ = beam.Pipeline(runner=FnApiRunner()) | WatchPlace(place, 10.0)
    assert asked == [pattern]


@pytest.mark.parametrize(
    ("pattern", "shown"),
    [
        ("in/**", ["in/a.jpg", "in/deep/b.jpg"]),
        ("in/*.jpg", ["in/a.jpg"]),
        ("in/.thumbs/*", ["in/.thumbs/c.jpg"]),
        ("in/.th*/*", ["in/.thumbs/c.jpg"]),
    ],
)
def test_a_watched_place_shows_what_a_listing_of_it_would(
    pattern: str, shown: list[str], tmp_path: Path
) -> None:
    for name in ("a.jpg", "a.json", ".b.jpg", "deep/b.jpg", ".thumbs/c.jpg", "deep/.git/d.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    place = f"{tmp_path}/{pattern}"
    (found,) = FileSystems.match([place])
    watched = [image for file in found.metadata_list for image in refs_of_file(file, place)]
    expected = [f"{tmp_path}/{name}" for name in shown]
    assert sorted(image.image_uri for image in watched) == expected
    assert sorted(image.image_uri for image in locate(place)) == expected


def _stream(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--watch", str(folder), "--every", "0.3", "--chunk-wait-s", "1", "--output", str(output)),
        *("--stop-when-idle-s", "6", "--no-progress", *more),
    ]


def test_a_file_dropped_into_a_live_folder_becomes_a_row_within_the_chunk_s_time_and_five_seconds(
    tmp_path: Path,
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    codes: list[int] = []
    stream = threading.Thread(
        target=lambda: codes.append(main(_stream(photos, output), FakeScorerFactory())), daemon=True
    )
    stream.start()
    waits = []
    for number in range(3):
        dropped_at = time.monotonic()
        write_photos(photos, 4, first=number * 4)
        while len(rows(output, "scores")) < (number + 1) * 4 and time.monotonic() < dropped_at + 60:
            time.sleep(0.05)
        waits.append(time.monotonic() - dropped_at)
    stream.join()
    assert codes == [0]
    assert len(rows(output, "scores")) == 12
    # The chunk's time is one second here. Printed, because a loaded machine may take longer.
    print(f"from drop to row: {', '.join(f'{wait:.1f} s' for wait in waits)}")


def test_a_watched_folder_goes_on_where_the_output_ends(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 5)
    _age(photos)
    assert main(_stream(photos, output, "--stop-when-idle-s", "1"), FakeScorerFactory()) == 0
    write_photos(photos, 2, first=5)
    _age(photos, first=5)
    arguments = _stream(photos, output, "--stop-when-idle-s", "1", "--skip-scored", "--run-id", "second")
    assert main(arguments, FakeScorerFactory()) == 0
    assert Counter(row["run_id"] == "second" for row in rows(output, "scores")) == {False: 5, True: 2}


def test_event_time_decides_the_day_of_a_streamed_row(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    for number, path in enumerate(write_photos(photos, 3)):
        day = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC) + timedelta(days=number)
        os.utime(path, (day.timestamp(), day.timestamp()))
    assert main(_stream(photos, output, "--stop-when-idle-s", "1"), FakeScorerFactory()) == 0
    assert query(output, "SELECT date::VARCHAR FROM image_scores ORDER BY date") == [
        ("2026-01-31",),
        ("2026-02-01",),
        ("2026-02-02",),
    ]


_LIVE_JOB = """
import sys
from beam_pipeline.__main__ import main
from beam_pipeline.scoring.fakes import FakeScorer, FakeScorerFactory
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], FakeScorerFactory(FakeScorer(delay_ms=30))))
"""


def test_a_stream_that_is_asked_to_stop_scores_what_has_arrived_and_ends_well(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 40)
    _age(photos)
    arguments = _stream(photos, output, "--chunk-size", "5", "--stop-when-idle-s", "100")
    job = subprocess.Popen([sys.executable, "-c", _LIVE_JOB, *arguments], stdout=subprocess.PIPE, text=True)
    while not rows(output, "scores") and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    told, _ = job.communicate(timeout=60)
    assert job.returncode == 0
    assert len(rows(output, "scores")) == 40
    assert "40 images scored" in told


def test_a_stream_that_is_killed_loses_and_doubles_nothing_when_it_goes_on(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 60)
    _age(photos)
    arguments = _stream(photos, output, "--chunk-size", "4", "--stream-shards", "2", "--skip-scored")
    job = subprocess.Popen([sys.executable, "-c", _LIVE_JOB, *arguments])
    while not rows(output, "scores") and job.poll() is None:
        time.sleep(0.05)
    job.kill()
    job.wait()
    done = len(rows(output, "scores"))
    assert 0 < done < 60
    assert main([*arguments, "--stop-when-idle-s", "1"], FakeScorerFactory()) == 0
    assert query(output, "SELECT count(*), count(DISTINCT image_uri) FROM image_scores") == [(60, 60)]


def _age(folder: Path, first: int = 0) -> None:
    """Make files old enough to be taken at the first listing."""
    for path in sorted(folder.iterdir())[first:]:
        then = path.stat().st_mtime - 10
        os.utime(path, (then, then))
