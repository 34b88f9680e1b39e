from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipeline.__main__ import main
from beam_pipeline.output import compaction, source_files
from beam_pipeline.output.compaction import CompactedDay, CompactionSettings, compact
from beam_pipeline.output.compaction_command import compact_command
from beam_pipeline.output.queries import ddl
from beam_pipeline.output.sink import write_chunk
from schemas.errors import ConfigurationError
from schemas.records import Outcome, ScoredChunk
from schemas.tables import SCHEMAS, SCORES_SCHEMA
from tests.beam_pipeline.helpers import NOW, challenging, failure, files, ref, rows, score

LATER = "2026-06-01"
SMALL = CompactionSettings(target_rows=10, delete_after_s=0)
VIEWS = ("image_scores", "image_failures", "image_challengers")


class _Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def _write(output: Path, *outcomes: Outcome) -> None:
    write_chunk(ScoredChunk(outcomes), str(output))


def _compact(output: Path, settings: CompactionSettings = SMALL, **more: Any) -> list[CompactedDay]:
    return list(compact(str(output), settings, **{"before": LATER} | more))


def _views(output: Path) -> dict[str, list[tuple[Any, ...]]]:
    connection = duckdb.connect()
    connection.execute(ddl(str(output)))
    return {view: connection.sql(f"SELECT * FROM {view} ORDER BY ALL").fetchall() for view in VIEWS}


def _names(output: Path) -> list[str]:
    return [name.rsplit("/", 1)[1] for name in files(output) if name.endswith(".parquet")]


def _small_files(output: Path, chunks: int, rows_each: int = 3, first: int = 0) -> None:
    for number in range(first, first + chunks):
        refs = [ref(f"{number:04}-{n}") for n in range(rows_each)]
        _write(output, *(score(image, (number * 7 + n) % 100 / 10) for n, image in enumerate(refs)))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two days; several attempts; a failure that was scored; a challenger; failures."""
    folder = tmp_path / "out"
    _small_files(folder, 6)
    yesterday = NOW - timedelta(days=1)
    a, b, c, g = ref("a"), ref("b"), ref("c", event_time=yesterday), ref("g", event_time=yesterday)
    later = NOW + timedelta(seconds=10)
    _write(folder, score(a, 1.5), failure(b), failure(c), failure(ref("d", image_generation=None)))
    _write(folder, score(replace(a, attempt=2), 2.5), score(b, None))
    _write(folder, replace(score(a, 3.5), scored_at=later), score(ref("e")))
    _write(folder, failure(replace(c, attempt=2)), failure(g))
    _write(folder, challenging(score(replace(a, attempt=3), 9.5)), challenging(failure(b)))
    _write(folder, score(a, 4.5, revision="r2"))
    return folder


def test_a_days_small_files_become_one_and_the_views_show_the_same(output: Path) -> None:
    before = _views(output)
    assert len(before["image_scores"]) == 18 + 4
    assert [len(before[view]) for view in VIEWS[1:]] == [3, 1]
    done = _compact(output, CompactionSettings(delete_after_s=0))
    assert _views(output) == before
    assert len(_names(output)) == 3
    (scores, *_) = done
    assert (scores.table, scores.date, scores.files_before, scores.files_after) == (
        "scores",
        "2026-03-01",
        11,
        1,
    )
    assert (scores.rows, scores.duplicates, scores.left) == (23, 2, 0)
    assert scores.bytes_read > scores.bytes_written > 0
    assert [(day.table, day.date, day.rows, day.duplicates) for day in done[1:]] == [
        ("failures", "2026-02-28", 2, 1),
        ("failures", "2026-03-01", 3, 0),
    ]


def test_per_key_and_role_the_highest_attempt_stays_and_of_those_the_latest(tmp_path: Path) -> None:
    a, second = ref("a"), ref("a", attempt=2)
    early, late = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    _write(tmp_path, replace(score(a, 1.0), scored_at=late))
    _write(tmp_path, replace(score(second, 2.0), scored_at=early), score(ref("x")))
    _write(tmp_path, replace(score(second, 3.0), scored_at=NOW), score(ref("y")))
    _write(tmp_path, score(ref("a", image_generation=2), 4.0), score(ref("a", image_generation=None), 5.0))
    _write(tmp_path, challenging(score(a, 6.0)), score(a, 7.0, revision="r2"))
    for settings in (SMALL, CompactionSettings(2, 0)):
        output = tmp_path / str(settings.target_rows)
        shutil.copytree(tmp_path / "scores", output / "scores")
        _compact(output, settings)
        kept = [row["score"] for row in rows(output, "scores") if row["image_uri"] == "a"]
        assert sorted(kept) == [3.0, 4.0, 5.0, 6.0, 7.0]


def test_one_photograph_under_two_uris_stays_two_rows(tmp_path: Path) -> None:
    _write(tmp_path, score(ref("a")), score(ref("b")))
    _compact(tmp_path)
    assert [(row["image_uri"], row["image_id"]) for row in rows(tmp_path, "scores")] == [
        ("a", "id"),
        ("b", "id"),
    ]


def test_compacted_files_are_sorted_and_made_for_analysis(output: Path) -> None:
    _compact(output, CompactionSettings(delete_after_s=0))
    (path,) = output.glob("scores/*/*.parquet")
    file = pq.ParquetFile(path)
    assert file.schema_arrow.equals(SCORES_SCHEMA)
    found = file.read().to_pylist()
    ranked = [(row["score"] is None, -(row["score"] or 0), row["image_uri"]) for row in found]
    assert ranked == sorted(ranked)
    assert found[-1]["score"] is None
    group = file.metadata.row_group(0)
    assert [
        (column.column_index, column.descending, column.nulls_first) for column in group.sorting_columns
    ] == [
        (SCORES_SCHEMA.get_field_index("score"), True, False),
        (SCORES_SCHEMA.get_field_index("image_uri"), False, False),
    ]
    for index, field in enumerate(SCORES_SCHEMA):
        column = group.column(index)
        assert (column.compression, column.has_offset_index) == ("ZSTD", True)
        assert ("RLE_DICTIONARY" in column.encodings) == (str(field.type).startswith("dictionary"))
    failures = [row["image_uri"] for row in rows(output, "failures") if row["event_time"] == NOW]
    assert failures == sorted(failures)


def test_looking_up_an_image_is_helped_by_a_bloom_filter_where_pyarrow_writes_one(output: Path) -> None:
    small = sum(len(data) for data in files(output).values())
    _compact(output, CompactionSettings(delete_after_s=0))
    (path,) = output.glob("scores/*/*.parquet")
    connection = duckdb.connect()
    found = connection.sql(
        f"SELECT path_in_schema, bloom_filter_offset IS NOT NULL FROM parquet_metadata('{path}') ORDER BY ALL"
    ).fetchall()
    able = pa.__version__ >= "25"
    assert [name for name, has in found if has] == (["image_id", "image_uri"] if able else [])
    assert path.stat().st_size < small


def test_a_large_day_becomes_several_files_and_every_key_is_still_there_once(tmp_path: Path) -> None:
    _small_files(tmp_path, 20, rows_each=5)
    _small_files(tmp_path, 4, rows_each=4)  # again, in other chunks
    before = _views(tmp_path)
    (day,) = _compact(tmp_path, CompactionSettings(target_rows=30, delete_after_s=0))
    assert (day.files_before, day.files_after, day.rows, day.duplicates) == (24, 4, 100, 16)
    assert _views(tmp_path) == before
    sizes = [pq.read_metadata(path).num_rows for path in tmp_path.glob("scores/*/*.parquet")]
    assert sum(sizes) == 100
    assert max(sizes) < 50


def test_a_compacted_day_is_left_alone(output: Path) -> None:
    _compact(output)
    first = files(output)
    assert _compact(output) == []
    assert files(output) == first


def test_late_files_are_merged_in_by_the_next_run(output: Path) -> None:
    _compact(output)
    _write(output, score(ref("late"), 5.0), score(replace(ref("a"), attempt=4), 6.0))
    before = _views(output)
    (day,) = _compact(output)
    assert day.table == "scores"
    assert day.duplicates == 1
    assert _views(output) == before
    assert all(name.startswith("compact-") for name in _names(output))
    assert [row["score"] for row in rows(output, "scores") if row["image_uri"] == "a"].count(6.0) == 1


def test_today_is_left_alone_unless_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    for number in range(2):
        _write(tmp_path, score(ref(f"old-{number}")), score(ref(f"new-{number}", event_time=now)))
    assert compact_command([str(tmp_path), "--delete-after-s", "0", "--before", "2999-01-01"]) == 0
    today = f"date={now.date()}"
    assert len([name for name in files(tmp_path) if today in name]) == 2
    assert compact_command([str(tmp_path), "--delete-after-s", "0", "--date", str(now.date())]) == 0
    assert len([name for name in files(tmp_path) if today in name]) == 1
    assert compact_command([str(tmp_path)]) == 0
    assert "nothing to compact" in capsys.readouterr().out


def test_only_the_days_that_are_named_are_compacted(output: Path) -> None:
    assert {day.date for day in _compact(output, dates=["2026-02-28"])} == {"2026-02-28"}
    assert _compact(output, before="2026-03-01") == []
    assert {day.date for day in _compact(output)} == {"2026-03-01"}


def _dying(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], bool]:
    """Kill the run before its n-th put or removal; tell whether it came to that."""
    steps, lock = count(1), threading.Lock()
    died: list[int] = []

    def wrap(name: str) -> None:
        real = getattr(compaction, name)

        def step(*arguments: Any) -> Any:
            with lock:
                here = next(steps)
                if died or here == at:
                    died.append(here)
                    raise _Killed
                return real(*arguments)

        monkeypatch.setattr(compaction, name, step)

    wrap("put_file")
    wrap("remove_version")
    return lambda: bool(died)


@pytest.mark.integration
def test_a_run_killed_at_any_step_leaves_the_views_as_they_were_and_the_next_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    _small_files(source, 3, rows_each=5)
    _write(source, score(ref("0000-0", attempt=2), 9.0), failure(ref("f")), failure(ref("0001-1")))
    before = _views(source)
    for at in count(1):
        output = tmp_path / f"killed-{at}"
        shutil.copytree(source, output)
        with monkeypatch.context() as patch:
            died = _dying(patch, at)
            with suppress(_Killed):
                _compact(output)
        assert _views(output) == before, at
        _compact(output)
        assert _views(output) == before, at
        assert len(_names(output)) == 3, at
        assert _compact(output) == []
        if not died():
            break
    assert at > 2 + 4 + 1 + 1


def test_an_interrupted_run_is_repeated_under_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _small_files(whole, 8)
    os.makedirs(killed)
    os.rename(whole / "scores", killed / "scores")  # the very same files
    with monkeypatch.context() as patch:
        _dying(patch, 3)
        with pytest.raises(_Killed):
            _compact(killed)
    begun = {name for name in _names(killed) if name.startswith("compact-")}
    assert len(begun) == 2
    _compact(killed)
    assert begun < set(_names(killed))
    assert len(_names(killed)) == 3


def test_what_is_left_of_an_interrupted_run_goes_also_when_other_files_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small_files(tmp_path, 8)
    with monkeypatch.context() as patch:
        _dying(patch, 3)
        with pytest.raises(_Killed):
            _compact(tmp_path)
    _small_files(tmp_path, 1, first=8)
    before = _views(tmp_path)
    _compact(tmp_path)
    assert _views(tmp_path) == before
    assert sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("scores/*/*.parquet")) == 27
    assert _compact(tmp_path) == []


def test_a_chunk_that_is_scored_again_while_its_day_is_compacted_loses_nothing(tmp_path: Path) -> None:
    """Under the same file name; before the merged files are there, and before the old ones are removed."""
    a, b = ref("a"), ref("b")
    _write(tmp_path, score(a, 1.0), failure(b))
    _small_files(tmp_path, 3)
    again = [score(replace(a, attempt=2), 2.0), score(replace(b, attempt=2), 3.0)]
    slept: list[float] = []

    def meanwhile(seconds: float) -> None:
        if not slept:
            _write(tmp_path, *again)
        slept.append(seconds)

    done = _compact(tmp_path, CompactionSettings(100, 60), sleep=meanwhile, clock=lambda: 0.0)
    assert slept == [60.0, 60.0]
    assert [(day.table, day.left) for day in done] == [("scores", 1), ("failures", 0)]
    views = _views(tmp_path)
    _compact(tmp_path)
    assert _views(tmp_path) == views
    found = {row["image_uri"]: row["score"] for row in rows(tmp_path, "scores")}
    assert (found["a"], found["b"], len(found)) == (2.0, 3.0, 11)
    assert views["image_failures"] == []


def test_a_chunk_that_is_written_again_while_it_is_read_is_left_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small_files(tmp_path, 3)
    put = compaction.put_file

    def racing(uri: str, data: bytes) -> None:
        _write(tmp_path, *(score(ref(f"0001-{n}", attempt=2), 9.0) for n in range(3)))
        put(uri, data)

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "put_file", racing)
        (day,) = _compact(tmp_path)
    assert (day.left, day.files_after) == (1, 2)
    before = _views(tmp_path)
    (day,) = _compact(tmp_path)
    assert (day.rows, day.duplicates) == (9, 3)
    assert _views(tmp_path) == before
    assert [row["attempt"] for row in rows(tmp_path, "scores")].count(2) == 3


def test_a_file_that_vanishes_before_it_is_read_is_none_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, score(ref("a")), failure(ref("b")))
    _small_files(tmp_path, 2)
    real = source_files.version_of

    def retried_first(uri: str) -> str | None:
        version = real(uri)
        if "/failures/" in uri and version is not None:
            os.remove(uri)  # as the sink does, where the image was scored after all
        return version

    monkeypatch.setattr(source_files, "version_of", retried_first)
    assert [day.table for day in _compact(tmp_path)] == ["scores"]


def test_two_runs_at_the_same_time_do_each_other_no_harm(tmp_path: Path) -> None:
    _small_files(tmp_path, 6)
    settings = CompactionSettings(10, 60)

    def other_run(_: float) -> None:
        _small_files(tmp_path, 1, first=6)
        _compact(tmp_path, CompactionSettings(10, 0))

    with pytest.raises(FileNotFoundError):  # the other one has merged its files further
        _compact(tmp_path, settings, sleep=other_run)
    views = _views(tmp_path)
    assert len(views["image_scores"]) == 21
    _compact(tmp_path)
    assert _views(tmp_path) == views
    assert _compact(tmp_path) == []


class _Reader(threading.Thread):
    """Asks the published view all the time; remembers every answer, and every refusal of the file system."""

    def __init__(self, output: Path) -> None:
        super().__init__()
        self._sql = ddl(str(output))
        self._answered = threading.Condition()
        self._done = False
        self.answers: list[tuple[Any, ...]] = []
        self.problems: list[BaseException] = []

    def run(self) -> None:
        try:
            connection = duckdb.connect()
            connection.execute(self._sql)
            while not self._done:
                self._ask(connection)
        except BaseException as error:
            self.problems.append(error)
            with self._answered:
                self._answered.notify_all()

    def _ask(self, connection: Any) -> None:
        try:
            answer = connection.execute(
                "SELECT count(*), count(DISTINCT image_uri), sum(score)::INTEGER FROM image_scores"
            ).fetchone()
        except duckdb.IOException as error:
            # It listed a file that was then removed. Never a wrong answer: it asks again.
            if "No such file" not in str(error):
                raise
            return
        with self._answered:
            self.answers.append(answer)
            self._answered.notify_all()

    def wait_for_whole_answers(self) -> None:
        """Wait until a question that was asked after this moment is answered."""
        with self._answered:
            wanted = len(self.answers) + 2
            self._answered.wait_for(lambda: len(self.answers) >= wanted or bool(self.problems))

    def stop(self) -> None:
        self._done = True
        self.join()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[_Reader]:
    _small_files(tmp_path, 30)
    made = _Reader(tmp_path)
    made.start()
    yield made
    made.stop()


def test_one_who_asks_all_the_time_sees_each_row_once(
    tmp_path: Path, reader: _Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, remove = compaction.put_file, compaction.remove_version
    removed = count()

    def put_file(uri: str, data: bytes) -> None:
        put(uri, data)
        reader.wait_for_whole_answers()

    def remove_version(uri: str, version: str) -> bool:
        if next(removed) % 8 == 4:
            reader.wait_for_whole_answers()
        return remove(uri, version)

    monkeypatch.setattr(compaction, "put_file", put_file)
    monkeypatch.setattr(compaction, "remove_version", remove_version)
    reader.wait_for_whole_answers()
    _compact(tmp_path, CompactionSettings(50, 60), sleep=lambda _: reader.wait_for_whole_answers())
    reader.wait_for_whole_answers()
    assert len(_names(tmp_path)) == 2
    assert reader.problems == []
    total = round(sum(row["score"] for row in rows(tmp_path, "scores")))
    assert set(reader.answers) == {(90, 90, total)}
    assert len(reader.answers) >= 2 * 8


@pytest.mark.integration
def test_a_thousand_small_files_become_one_and_the_rows_are_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _small_files(tmp_path, 1000, rows_each=4)
    before = _views(tmp_path)
    assert len(_names(tmp_path)) == 1000
    assert main(["compact", str(tmp_path), "--delete-after-s", "0"]) == 0
    assert "scores 2026-03-01: 1,000 → 1 files, 4,000 rows, 0 duplicates" in capsys.readouterr().out
    assert _views(tmp_path) == before
    assert len(_names(tmp_path)) == 1


def test_files_of_earlier_versions_get_the_columns_that_came_later(tmp_path: Path) -> None:
    _write(tmp_path, failure(ref("a")))
    (path,) = tmp_path.glob("failures/*/*.parquet")
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["role"]), path)
    _write(tmp_path, failure(ref("a", attempt=2)), failure(ref("b")))
    _compact(tmp_path)
    assert [(row["image_uri"], row["attempt"], row["role"]) for row in rows(tmp_path, "failures")] == [
        ("a", 2, "champion"),
        ("b", 1, "champion"),
    ]


def test_columns_of_a_later_version_are_never_dropped(tmp_path: Path) -> None:
    _write(tmp_path, score(ref("a")))
    (path,) = tmp_path.glob("scores/*/*.parquet")
    table = pq.ParquetFile(path).read()
    pq.write_table(table.append_column("mood", pa.array(["sad"])), path)
    before = files(tmp_path)
    with pytest.raises(ConfigurationError, match="another version: mood"):
        _compact(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_broken_file_is_named_and_nothing_is_touched(tmp_path: Path, table: str) -> None:
    _write(tmp_path, score(ref("a")), failure(ref("b")))
    broken = tmp_path / table / "date=2026-03-01" / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(ConfigurationError, match=r"broken\.parquet: not a file of"):
        _compact(tmp_path, settings=SMALL)
    assert broken.exists()


def test_a_set_that_lost_rows_removes_nothing(tmp_path: Path) -> None:
    _small_files(tmp_path, 4)
    chunks = set(_names(tmp_path))

    def damage(_: float) -> None:
        (path, *_rest) = tmp_path.glob("scores/*/compact-*-0000-*.parquet")
        table = pq.ParquetFile(path).read()
        pq.write_table(table.slice(1), path)

    with pytest.raises(ConfigurationError, match="rows, not 12"):
        _compact(tmp_path, CompactionSettings(10, 1), sleep=damage)
    assert chunks < set(_names(tmp_path))


def test_a_compacted_file_that_is_damaged_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    _small_files(tmp_path, 4)
    _compact(tmp_path)
    _small_files(tmp_path, 1, first=4)
    (path, *_rest) = tmp_path.glob("scores/*/compact-*.parquet")
    path.write_bytes(path.read_bytes()[:-50])
    before = files(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{path.name}: is damaged"):
        _compact(tmp_path)
    assert files(tmp_path) == before


def test_it_is_told_as_json(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compact_command([str(output), "--delete-after-s", "0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [day["table"] for day in said["days"]] == ["scores", "failures", "failures"]
    assert (said["files_before"], said["files_after"], said["rows"]) == (15, 3, 28)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--date", "yesterday", "2026-3-1", "--target-rows", "0", "--delete-after-s", "-1"]
    assert main(["compact", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    for words in ("--date yesterday", "--date 2026-3-1", "--target-rows 0", "--delete-after-s -1"):
        assert words in said
    assert main(["compact", str(tmp_path), "--delete-after-s", "inf"]) == 2
    assert "--delete-after-s inf: must be a number" in capsys.readouterr().err
    assert main(["compact", str(tmp_path)]) == 2
    assert "no rows there" in capsys.readouterr().err


def test_a_storage_that_refuses_is_exit_code_1_and_loses_nothing(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _views(output)

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(compaction, "put_file", full)
    assert compact_command([str(output)]) == 1
    assert "disk full; nothing is lost" in capsys.readouterr().err
    assert _views(output) == before
