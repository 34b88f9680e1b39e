from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow.parquet as pq
import pytest

from beam_pipeline.output.queries import ddl
from beam_pipeline.output.sink import write_chunk
from beam_pipeline.output.summary import summarise
from beam_pipeline.sources.failed import FailedRef, failed_refs, ref_to_retry
from beam_pipeline.sources.inputs import describe
from beam_pipeline.sources.retries import ReadFailedRefs
from beam_pipeline.stores.storage import list_files
from beam_pipeline.submission.runners import beam_options, local_runner
from schemas.errors import Stage
from schemas.records import ImageRef, Outcome, ScoredChunk, ScoringFailure
from tests.beam_pipeline.helpers import NOW, challenging, failure, ref, score

STARTED = NOW + timedelta(days=9)


def _write(output: Path, *outcomes: Outcome) -> None:
    write_chunk(ScoredChunk(outcomes), str(output))


def _at(stage: Stage, image: ImageRef, *, retryable: bool = False) -> ScoringFailure:
    return replace(failure(image), stage=stage, retryable=retryable)


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., ImageRef]:
    """Make a file, and give its ref as a job that lists it describes it."""

    def make(name: str, data: bytes = b"x") -> ImageRef:
        path = tmp_path / name
        path.write_bytes(data)
        return describe(ImageRef(str(path)), STARTED)

    return make


def _failed(row: ScoringFailure) -> FailedRef:
    return FailedRef(row.ref, row.stage, row.retryable, row.failed_at)


def _retried(
    rows: list[ScoringFailure], scored: tuple[int, ...] = (), which: tuple[str, ...] = ("all",)
) -> ImageRef | None:
    return ref_to_retry([_failed(row) for row in rows], scored, which, STARTED)


def test_a_retry_has_the_next_attempt_and_everything_else_as_it_was(photo: Callable[..., ImageRef]) -> None:
    told = replace(photo("a.jpg"), context="a barn", passthrough_json='{"x": 1}', event_time=NOW, attempt=3)
    assert _retried([failure(told)]) == replace(told, attempt=4)


def test_of_several_attempts_the_last_one_decides(photo: Callable[..., ImageRef]) -> None:
    image = photo("a.jpg")
    rows = [_at("fetch", replace(image, attempt=2)), _at("decode", image)]
    for ordered in (rows, rows[::-1]):
        assert _retried(ordered, which=("fetch",)) == replace(image, attempt=3)
        assert _retried(ordered, which=("decode",)) is None


def test_of_one_attempt_the_latest_row_decides(photo: Callable[..., ImageRef]) -> None:
    image = photo("a.jpg")
    early = replace(_at("fetch", image), failed_at=NOW - timedelta(hours=1))
    assert _retried([_at("score", image), early], which=("fetch",)) is None


def test_stages_and_what_may_pass_by_itself_can_be_asked_for(photo: Callable[..., ImageRef]) -> None:
    image = photo("a.jpg")
    row = _at("fetch", image, retryable=True)
    for which, wanted in {
        ("all",): True,
        ("fetch",): True,
        ("retryable",): True,
        ("decode", "fetch"): True,
        ("decode", "list", "score"): False,
    }.items():
        assert (_retried([row], which=which) is not None) == wanted
    assert _retried([_at("fetch", image)], which=("retryable",)) is None


def test_what_has_a_score_is_not_tried_again(photo: Callable[..., ImageRef]) -> None:
    image = photo("a.jpg")
    version = image.key[1]
    assert _retried([failure(image)], scored=(version,)) is None
    assert _retried([failure(image)], scored=(version - 1,)) is not None
    unlisted = replace(image, image_generation=None)
    assert _retried([_at("list", unlisted)], scored=(version - 1,)) is None


def test_a_replaced_file_is_tried_as_it_is_now(photo: Callable[..., ImageRef]) -> None:
    old = replace(photo("a.jpg"), context="a barn", event_time=NOW)
    os.utime(old.image_uri, ns=(0, 1_000_000_000))
    found = _retried([failure(old)])
    now = describe(ImageRef(old.image_uri), STARTED)
    assert found == replace(now, context="a barn", attempt=2)
    assert found is not None
    assert found.event_time is not None
    assert found.event_time.year == 1970
    assert _retried([failure(old)], scored=(1_000_000_000,)) is None


def test_two_versions_that_failed_are_one_retry(photo: Callable[..., ImageRef]) -> None:
    image = photo("a.jpg")
    older = replace(image, image_generation=image.key[1] - 5, attempt=4)
    assert _retried([failure(older), failure(image)]) == replace(image, attempt=5)


def test_a_file_that_is_gone_fails_again_in_the_place_of_its_old_failure(
    photo: Callable[..., ImageRef],
) -> None:
    image = photo("a.jpg")
    os.remove(image.image_uri)
    found = _retried([failure(image)])
    assert found is not None
    assert (found.key, found.event_time, found.attempt) == (image.key, image.event_time, 2)
    assert found.problem is not None
    assert found.problem.message == "no such image"


def test_a_file_that_could_not_be_listed_and_now_can_is_described(photo: Callable[..., ImageRef]) -> None:
    image = photo("a.jpg")
    unlisted = ImageRef(image.image_uri, event_time=NOW, context="c")
    assert _retried([_at("list", unlisted)]) == replace(image, attempt=2, context="c")


def test_only_this_adapters_champion_and_what_names_an_image_is_read(tmp_path: Path) -> None:
    _write(tmp_path, failure(ref("a")), _at("ingest", ref("message")))
    _write(tmp_path, challenging(failure(ref("b"))), failure(ref("c"), revision="r2"))
    found = [
        row.ref.image_uri
        for file in list_files(f"{tmp_path}/failures", ".parquet")
        for row in failed_refs(file, "r1")
    ]
    assert found == ["a"]


def test_failures_of_earlier_versions_are_champions(tmp_path: Path) -> None:
    _write(tmp_path, failure(ref("a", context="c", passthrough_json="{}")))
    (path,) = list_files(f"{tmp_path}/failures", ".parquet")
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["role"]), path)
    assert [row.ref for row in failed_refs(path, "r1")] == [ref("a", context="c", passthrough_json="{}")]


def _run(output: Path, found: Path, *which: str) -> list[str]:
    """The retries of an output, as ``uri attempt``."""
    with beam.Pipeline(runner=local_runner(beam_options([]))) as pipeline:
        refs = pipeline | ReadFailedRefs(str(output), "r1", which, STARTED)
        lines = refs | beam.Map(lambda ref: f"{os.path.basename(ref.image_uri)} {ref.attempt}")
        _ = lines | beam.io.WriteToText(str(found), shard_name_template="")
    return sorted(found.read_text().split("\n")[:-1])


@pytest.mark.integration
def test_thousands_of_failures_are_joined_with_thousands_of_scores(
    tmp_path: Path, photo: Callable[..., ImageRef]
) -> None:
    output = tmp_path / "out"
    images = [photo(f"{number:04}.jpg") for number in range(3000)]
    for low in range(0, 3000, 500):
        _write(output, *(failure(image) for image in images[low : low + 500]))
    _write(output, *(_at("fetch", replace(image, attempt=2)) for image in images[100:200]))
    for low in range(1000, 3000, 500):
        _write(output, *(score(image, 5.0) for image in images[low : low + 500][:490]))
    _write(output, *(score(image, 5.0, revision="r2") for image in images[:50]))
    _write(output, *(challenging(score(image, 5.0)) for image in images[:50]))
    once = {
        *range(100),
        *range(200, 1000),
        *(low + n for low in range(1000, 3000, 500) for n in range(490, 500)),
    }
    expected = [f"{number:04}.jpg 2" for number in once] + [
        f"{number:04}.jpg 3" for number in range(100, 200)
    ]
    assert _run(output, tmp_path / "all.txt", "all") == sorted(expected)
    assert _run(output, tmp_path / "fetch.txt", "fetch") == [
        f"{number:04}.jpg 3" for number in range(100, 200)
    ]


def test_rows_of_a_retry_are_the_ones_that_count(tmp_path: Path, photo: Callable[..., ImageRef]) -> None:
    output = tmp_path / "out"
    a, b = photo("a.jpg"), photo("b.jpg")
    _write(output, failure(a), failure(b))
    again = [_retried([failure(image)]) for image in (a, b)]
    assert None not in again
    first, second = (image for image in again if image is not None)
    _write(output, score(first, 7.0), _at("fetch", second))
    connection = duckdb.connect()
    connection.execute(ddl(str(output)))
    assert connection.sql("SELECT score, attempt FROM image_scores").fetchall() == [(7.0, 2)]
    assert connection.sql("SELECT stage, attempt FROM image_failures").fetchall() == [("fetch", 2)]
    summary = summarise(str(output))
    assert (summary.scored, summary.failed, summary.failures[0].stage) == (1, 1, "fetch")
