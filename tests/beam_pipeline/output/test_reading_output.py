"""Reading an output that is being compacted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from beam_pipeline.output.compaction_command import compact_command
from beam_pipeline.output.reading_output import ReadOutput, day_folders, read_day
from beam_pipeline.output.scored import scored_keys
from beam_pipeline.output.sink import write_chunk
from beam_pipeline.scoring.fakes import FakeScorerFactory
from schemas.records import ScoredChunk
from tests.beam_pipeline import jobs
from tests.beam_pipeline.helpers import ref, rows, score, write_photos

pytestmark = pytest.mark.integration


def _write(output: Path, chunks: int) -> None:
    for number in range(chunks):
        write_chunk(ScoredChunk((score(ref(f"{number:03}.jpg")),)), str(output))


def _compact(output: Path) -> None:
    assert compact_command([str(output), "--delete-after-s", "0"]) == 0


def test_a_table_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert day_folders(str(tmp_path / "scores")) == []


def test_a_day_that_is_compacted_while_it_is_read_is_read_whole(tmp_path: Path) -> None:
    _write(tmp_path, 20)
    (day,) = day_folders(f"{tmp_path}/scores")
    left = [7]

    def read(file: str) -> Iterator[tuple[str, int]]:
        left[0] -= 1
        if left[0] == 0:
            _compact(tmp_path)
        return scored_keys(file, "r1")

    assert {uri for uri, _ in read_day(day, read)} == {f"{number:03}.jpg" for number in range(20)}


def test_a_day_whose_files_go_on_vanishing_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    (day,) = day_folders(f"{tmp_path}/scores")

    def read(file: str) -> Iterator[str]:
        raise FileNotFoundError(file)

    with pytest.raises(FileNotFoundError):
        list(read_day(day, read))


class _CompactsFirst:
    """Reads keys; what was listed is compacted before the first file is opened."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def __call__(self, file: str) -> Iterator[tuple[str, int]]:
        if any("chunk-" in path.name for path in self.output.rglob("*.parquet")):
            _compact(self.output)
        yield from scored_keys(file, "r1")


def test_a_job_finds_every_key_though_all_files_were_merged_after_it_listed_them(tmp_path: Path) -> None:
    _write(tmp_path, 30)

    def check(keys: list[tuple[str, int]]) -> None:
        assert {uri for uri, _ in keys} == {f"{number:03}.jpg" for number in range(30)}

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        read = ReadOutput(str(tmp_path), "scores", _CompactsFirst(tmp_path), tuple[str, int])
        assert_that(pipeline | read, check)


def test_skip_scored_works_while_the_output_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 20)
    jobs.score(photos, output)
    from beam_pipeline import transforms

    def keys(file: str, revision: str) -> Iterator[tuple[str, int]]:
        if any("chunk-" in path.name for path in output.rglob("*.parquet")):
            _compact_today(output)
        return scored_keys(file, revision)

    monkeypatch.setattr(transforms, "scored_keys", keys)
    assert jobs.score(photos, output, "--skip-scored", factory=FakeScorerFactory()) == 0
    assert len(rows(output, "scores")) == 20


def _compact_today(output: Path) -> None:
    days = {path.parent.name.removeprefix("date=") for path in output.rglob("*.parquet")}
    assert compact_command([str(output), "--delete-after-s", "0", "--date", *sorted(days)]) == 0
