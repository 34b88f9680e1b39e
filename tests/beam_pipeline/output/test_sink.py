from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_pipeline.output.sink import by_day, file_name, to_parquet, write_chunk
from beam_pipeline.stores import storage
from schemas.records import Outcome, ScoredChunk
from schemas.tables import FAILURES_SCHEMA, SCORES, SCORES_SCHEMA
from tests.beam_pipeline.helpers import NOW, challenging, failure, files, ref, rows, score


def _chunk(*outcomes: Outcome) -> ScoredChunk:
    return ScoredChunk(outcomes)


def test_a_chunk_becomes_one_file_a_table_and_day(tmp_path: Path) -> None:
    yesterday = ref("c", event_time=NOW - timedelta(days=1))
    written = write_chunk(_chunk(score(ref("a")), failure(ref("b")), score(yesterday)), str(tmp_path))
    assert sorted(os.path.relpath(path, tmp_path).rsplit("/", 1)[0] for path in written) == [
        "failures/date=2026-03-01",
        "scores/date=2026-02-28",
        "scores/date=2026-03-01",
    ]
    assert sorted(files(tmp_path)) == sorted(os.path.relpath(path, tmp_path) for path in written)


def test_the_day_is_that_of_utc() -> None:
    late = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    assert list(by_day([score(ref("a", event_time=late))])) == ["2026-02-28"]


def test_both_tables_of_a_chunk_have_the_same_file_name(tmp_path: Path) -> None:
    one, two = write_chunk(_chunk(score(ref("a")), failure(ref("b"))), str(tmp_path))
    assert os.path.basename(one) == os.path.basename(two)


def test_the_name_depends_on_keys_and_adapter_never_on_values_order_or_time() -> None:
    a, b = ref("a"), ref("b")
    name = file_name([a, b], "r1")
    assert name == file_name([replace(b, context="x", attempt=2), replace(a, size_bytes=3)], "r1")
    assert name != file_name([a, b], "r2")
    assert name != file_name([a, b], "r1", "challenger")
    assert name != file_name([a], "r1")
    assert name != file_name([a, replace(b, image_generation=2)], "r1")
    assert name != file_name([a, replace(b, image_generation=None)], "r1")


def test_a_retried_chunk_replaces_itself_wholly(tmp_path: Path) -> None:
    a, b = ref("a"), ref("b")
    write_chunk(_chunk(score(a, 1.0), failure(b)), str(tmp_path))
    write_chunk(_chunk(score(a, 2.0), score(b, 3.0)), str(tmp_path))
    assert [row["score"] for row in rows(tmp_path, "scores")] == [2.0, 3.0]
    assert rows(tmp_path, "failures") == []
    write_chunk(_chunk(failure(a), failure(b)), str(tmp_path))
    assert rows(tmp_path, "scores") == []
    assert [row["image_uri"] for row in rows(tmp_path, "failures")] == ["a", "b"]


def test_two_adapters_do_not_touch_each_others_files(tmp_path: Path) -> None:
    write_chunk(_chunk(score(ref("a"), revision="r1")), str(tmp_path))
    write_chunk(_chunk(score(ref("a"), revision="r2")), str(tmp_path))
    assert sorted(row["adapter_revision"] for row in rows(tmp_path, "scores")) == ["r1", "r2"]


def test_a_challengers_rows_are_in_files_of_their_own_and_a_retry_replaces_them(tmp_path: Path) -> None:
    a, b = ref("a"), ref("b")
    champion = (score(a, 1.0, revision="r1"), score(b, 2.0, revision="r1"))
    for challengers in ((score(a, 3.0, revision="r2"), score(b, 4.0, revision="r2")), (failure(b, "r2"),)):
        chunk = ScoredChunk(champion, tuple(challenging(outcome) for outcome in challengers))
        written = write_chunk(chunk, str(tmp_path))
        assert len(written) == 2
    kept = [(row["role"], row["adapter_revision"], row["score"]) for row in rows(tmp_path, "scores")]
    assert kept == [("champion", "r1", 1.0), ("champion", "r1", 2.0)]
    assert [(row["role"], row["image_uri"]) for row in rows(tmp_path, "failures")] == [("challenger", "b")]


def test_a_challenger_that_becomes_champion_replaces_no_row_and_loses_none(tmp_path: Path) -> None:
    a = ref("a")
    as_challenger = ScoredChunk((score(a, 1.0, revision="r1"),), (challenging(score(a, 2.0, revision="r2")),))
    as_champion = _chunk(score(a, 2.0, revision="r2"))
    for order in ((as_challenger, as_champion), (as_champion, as_challenger)):
        output = tmp_path / str(order.index(as_champion))
        for chunk in order:
            write_chunk(chunk, str(output))
        found = sorted((row["adapter_revision"], row["role"]) for row in rows(output, "scores"))
        assert found == [("r1", "champion"), ("r2", "challenger"), ("r2", "champion")]


def test_a_write_that_dies_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_chunk(_chunk(score(ref("a"), 1.0)), str(tmp_path))
    before = files(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(storage.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_chunk(_chunk(score(ref("a"), 2.0)), str(tmp_path))
    assert files(tmp_path) == before


def test_what_is_being_written_is_hidden_from_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    replace_file = os.replace

    def watch(source: str, target: str) -> None:
        seen.extend(os.listdir(os.path.dirname(source)))
        replace_file(source, target)

    monkeypatch.setattr(storage.os, "replace", watch)
    write_chunk(_chunk(score(ref("a"))), str(tmp_path))
    (name,) = seen
    assert name.startswith(".")
    assert not name.endswith(".parquet")


def test_rows_are_sorted_and_the_file_is_as_the_contract_says(tmp_path: Path) -> None:
    outcomes = [score(ref("b", context="c")), score(ref("a"), image_clarity="clear", reasons="sharp")]
    (path,) = write_chunk(_chunk(*outcomes), str(tmp_path))
    file = pq.ParquetFile(path)
    assert [row["image_uri"] for row in file.read().to_pylist()] == ["a", "b"]
    assert file.schema_arrow.equals(SCORES_SCHEMA, check_metadata=True)
    group = file.metadata.row_group(0)
    assert [column.column_index for column in group.sorting_columns] == [0]
    for index, field in enumerate(SCORES_SCHEMA):
        column = group.column(index)
        assert column.compression == "ZSTD"
        assert ("RLE_DICTIONARY" in column.encodings) == (str(field.type).startswith("dictionary"))
        assert "BYTE_STREAM_SPLIT" not in column.encodings
        assert column.has_column_index
        assert column.has_offset_index


def test_failures_are_as_the_contract_says(tmp_path: Path) -> None:
    (path,) = write_chunk(_chunk(failure(ref("a", passthrough_json='{"x": 1}'))), str(tmp_path))
    file = pq.ParquetFile(path)
    assert file.schema_arrow.equals(FAILURES_SCHEMA, check_metadata=True)
    (row,) = file.read().to_pylist()
    assert (row["stage"], row["passthrough_json"], row["event_time"]) == ("decode", '{"x": 1}', NOW)


def test_equal_rows_give_equal_bytes() -> None:
    outcomes = [score(ref("a")), score(ref("b"))]
    assert to_parquet(outcomes, SCORES) == to_parquet(outcomes[::-1], SCORES)


def test_a_ref_without_event_time_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no event time"):
        by_day([score(ref("a", event_time=None))])


def test_times_are_kept_to_the_microsecond(tmp_path: Path) -> None:
    time = datetime(2026, 3, 1, 23, 59, 59, 999999, tzinfo=UTC)
    write_chunk(_chunk(score(ref("a", event_time=time))), str(tmp_path))
    assert rows(tmp_path, "scores")[0]["event_time"] == time
