from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

from beam_pipeline.__main__ import main
from beam_pipeline.output import outcome_rows, parquet
from beam_pipeline.output.compaction import CompactionSettings, compact
from beam_pipeline.output.queries import DIALECTS, ddl, type_of
from beam_pipeline.output.scored import scored_keys
from beam_pipeline.output.sink import write_chunk
from beam_pipeline.output.summary import Summary, summarise, summary_text, write_summary
from beam_pipeline.stores import storage
from beam_pipeline.stores.storage import list_files
from schemas.records import Outcome, ScoredChunk
from schemas.tables import FAILURES_SCHEMA, SCORES_SCHEMA
from tests.beam_pipeline.helpers import NOW, challenging, failure, ref, score


def _write(output: Path, *outcomes: Outcome) -> None:
    write_chunk(ScoredChunk(outcomes), str(output))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Twice the same images, one of them first failing; an image with a later attempt; a second adapter."""
    a, b, c, d = (ref(uri) for uri in "abcd")
    later = NOW + timedelta(seconds=10)
    unlisted = ref("d", image_generation=None)
    _write(tmp_path, score(a, 1.5), failure(b), failure(c), failure(unlisted))
    _write(tmp_path, replace(score(a, 2.5), scored_at=later), score(b, 9.99))
    _write(tmp_path, replace(score(a, 3.5), ref=replace(a, attempt=2)), score(d, None), failure(ref("e")))
    _write(tmp_path, score(a, 4.5, revision="r2", run="other"))
    return tmp_path


def test_one_outcome_is_counted_per_key_and_a_scored_image_did_not_fail(output: Path) -> None:
    summary = summarise(str(output))
    assert (summary.scored, summary.failed) == (4, 2)
    assert summary.score_histogram == (0, 0, 0, 1, 1, 0, 0, 0, 0, 1)
    assert summary.without_score == 1
    assert [(count.stage, count.error_type, count.images) for count in summary.failures] == [
        ("decode", "DecodeError", 2)
    ]
    assert summary.adapters == (("adapter", "r1"), ("adapter", "r2"))
    assert (summary.score_files, summary.failure_files) == (4, 2)


def test_the_published_view_counts_the_same(output: Path) -> None:
    connection = duckdb.connect()
    connection.execute(ddl(str(output)))
    scores = connection.sql(
        "SELECT image_uri, adapter_revision, score FROM image_scores ORDER BY ALL"
    ).fetchall()
    assert scores == [
        ("a", "r1", 3.5),
        ("a", "r2", 4.5),
        ("b", "r1", pytest.approx(9.99)),
        ("d", "r1", None),
    ]
    failures = connection.sql("SELECT image_uri FROM image_failures ORDER BY ALL").fetchall()
    assert failures == [("c",), ("e",)]


def test_what_an_adapter_scored_as_challenger_hides_nothing_that_it_scored_as_champion(
    tmp_path: Path,
) -> None:
    """The challenger's row is the later one, and of a higher attempt."""
    a, b, c = ref("a"), ref("b"), ref("c")
    again = replace(a, attempt=2)
    _write(tmp_path, score(a, 1.0), failure(b), failure(c))
    _write(tmp_path, challenging(replace(score(again, 2.0), scored_at=NOW + timedelta(hours=1))))
    _write(tmp_path, challenging(score(b, 3.0)), challenging(failure(ref("d"))))
    connection = duckdb.connect()
    connection.execute(ddl(str(tmp_path)))
    found = {
        view: connection.sql(f"SELECT image_uri FROM {view} ORDER BY ALL").fetchall()
        for view in ("image_scores", "image_challengers", "image_failures")
    }
    assert found == {
        "image_scores": [("a",)],
        "image_challengers": [("a",), ("b",)],
        "image_failures": [("b",), ("c",)],
    }
    assert connection.sql("SELECT role, score FROM image_scores").fetchall() == [("champion", 1.0)]
    summary = summarise(str(tmp_path))
    assert (summary.scored, summary.failed, summary.score_median) == (1, 2, 1.0)
    assert sorted(
        key for file in list_files(f"{tmp_path}/scores", ".parquet") for key in scored_keys(file, "r1")
    ) == [("a", 1)]


def test_failures_written_before_there_were_roles_are_champions(tmp_path: Path) -> None:
    _write(tmp_path, score(ref("a")), failure(ref("a")), failure(ref("b")))
    (path,) = tmp_path.glob("failures/*/*.parquet")
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["role"]), path)
    connection = duckdb.connect()
    connection.execute(ddl(str(tmp_path)))
    assert connection.sql("SELECT image_uri, role FROM image_failures").fetchall() == [("b", None)]
    assert summarise(str(tmp_path)).failed == 1


def test_rows_whose_categories_another_tool_wrote_as_plain_strings_are_counted_the_same(output: Path) -> None:
    before = [summarise(str(output), run_id) for run_id in (None, "other")]
    for path in output.glob("*/*/*.parquet"):
        table = pq.ParquetFile(path).read()
        plain = [
            field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field
            for field in table.schema
        ]
        pq.write_table(table.cast(pa.schema(plain)), path, store_schema=False)
        assert not any(map(pa.types.is_dictionary, pq.read_schema(path).types))
    assert [summarise(str(output), run_id) for run_id in (None, "other")] == before


def test_of_one_attempt_the_latest_row_counts(tmp_path: Path) -> None:
    early = score(ref("a"), 1.0)
    _write(tmp_path, replace(early, scored_at=NOW + timedelta(seconds=1), run_id="late"))
    _write(tmp_path, early, score(ref("b"), 2.0))
    assert summarise(str(tmp_path)).score_histogram[1] == 1
    connection = duckdb.connect()
    connection.execute(ddl(str(tmp_path)))
    assert connection.sql("SELECT run_id FROM image_scores WHERE image_uri = 'a'").fetchall() == [("late",)]


def test_an_output_that_is_compacted_while_it_is_counted_is_counted_right(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = summarise(str(output))
    plain = outcome_rows.list_files

    def listed(folder: str, suffix: str) -> list[str]:
        found = plain(folder, suffix)
        settings = CompactionSettings(delete_after_s=0)
        assert all(not day.left for day in compact(str(output), settings, before="9999-01-01"))
        return found

    monkeypatch.setattr(outcome_rows, "list_files", listed)
    after = summarise(str(output))
    assert (after.scored, after.failed, after.failures) == (before.scored, before.failed, before.failures)
    assert after.score_files == 1


def test_files_in_an_object_store_are_read_side_by_side(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = summarise(str(output))
    all_four = threading.Barrier(here.score_files, timeout=30)
    plain = outcome_rows.list_files

    def listed(folder: str, suffix: str) -> list[str]:
        return plain(f"{output}/{folder.rpartition('/')[2]}", suffix)

    def opened(file: str) -> BinaryIO:
        if "/scores/" in file:
            all_four.wait()
        return storage.open_binary(file)

    monkeypatch.setattr(outcome_rows, "list_files", listed)
    monkeypatch.setattr(parquet, "open_binary", opened)
    there = summarise("gs://bucket/output")
    assert replace(there, output=here.output) == here


def test_a_failure_is_settled_by_a_score_of_its_version_or_of_any_where_it_has_none(tmp_path: Path) -> None:
    scored = [score(ref(f"u{number}")) for number in range(50)]
    settled = [failure(outcome.ref) for outcome in scored[10:20]]
    unlisted = [failure(ref(f"u{number}", image_generation=None)) for number in range(45, 55)]
    other_version = [failure(ref("u1", image_generation=7))]
    _write(tmp_path, *scored)
    _write(tmp_path, *settled, *unlisted, *other_version)
    summary = summarise(str(tmp_path))
    assert (summary.scored, summary.failed) == (50, 5 + 1)


def test_a_run_can_be_summarised_alone(output: Path) -> None:
    summary = summarise(str(output), "other")
    assert (summary.scored, summary.failed, summary.score_median) == (1, 0, 4.5)


def test_the_speed_is_from_the_first_to_the_last_outcome(tmp_path: Path) -> None:
    outcomes = [replace(score(ref(f"u{n}")), scored_at=NOW + timedelta(seconds=n)) for n in range(11)]
    _write(tmp_path, *outcomes)
    assert summarise(str(tmp_path)).images_per_s == pytest.approx(1.0)


def test_the_summary_file_is_json_that_parquet_readers_pass_over(output: Path) -> None:
    path = write_summary(summarise(str(output)))
    told = json.loads(Path(path).read_text())
    assert (told["scored"], told["failed"]) == (4, 2)
    found = dataset.dataset(str(output), format="parquet").files
    assert len(found) == 6
    assert all(name.endswith(".parquet") for name in found)


def test_a_person_reads_counts_reasons_scores_places_and_warnings(output: Path) -> None:
    summary = replace(summarise(str(output)), skipped=3, synthetic=True, format_mass_median=0.2)
    text = summary_text(summary)
    for words in (
        "4 images scored, 2 failed, 3 skipped",
        "DecodeError",
        "not human",
        "LOW",
        f"{output}/scores",
    ):
        assert words in text


def test_a_good_format_mass_is_no_warning(output: Path) -> None:
    assert "LOW" not in summary_text(summarise(str(output)))


def test_an_output_without_rows_is_a_summary_of_nothing(tmp_path: Path) -> None:
    summary: Summary = summarise(str(tmp_path))
    assert (summary.scored, summary.failed, summary.images_per_s, summary.score_median) == (0, 0, None, None)
    assert "0 images scored" in summary_text(summary)


def test_views_of_an_output_without_failures_are_empty_and_typed(tmp_path: Path) -> None:
    _write(tmp_path, score(ref("a")))
    connection = duckdb.connect()
    connection.execute(ddl(str(tmp_path)))
    assert connection.sql("SELECT count(*) FROM image_failures").fetchall() == [(0,)]
    described = connection.sql("DESCRIBE image_failures").fetchall()
    assert [row[0] for row in described] == [*FAILURES_SCHEMA.names, "date"]


def test_the_views_have_the_columns_of_the_contract_in_its_types(output: Path) -> None:
    connection = duckdb.connect()
    connection.execute(ddl(str(output)))
    types = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
    described = connection.sql("DESCRIBE image_scores").fetchall()
    found = [(row[0], types.get(row[1], row[1])) for row in described]
    expected = [(field.name, type_of(field.type, "duckdb")) for field in SCORES_SCHEMA]
    assert found == [*expected, ("date", "DATE")]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_names_every_column(output: Path, dialect: str) -> None:
    sql = ddl(str(output), dialect)
    for name in {*SCORES_SCHEMA.names, *FAILURES_SCHEMA.names}:
        assert name in sql


def test_the_keys_that_one_adapter_has_scored_are_read(output: Path) -> None:
    keys = [key for file in list_files(f"{output}/scores", ".parquet") for key in scored_keys(file, "r1")]
    assert set(keys) == {("a", 1), ("b", 1), ("d", 1)}


def test_the_published_questions_are_answered(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sharp = {
        "image_clarity": "clear",
        "exposure": "properly exposed",
        "background_clutter": "cluttered",
        "background_clutter_expected": 1.2,
    }
    _write(output, score(ref("sharp.jpg"), 7.25, **sharp))
    assert main(["query", str(output)]) == 0
    said = capsys.readouterr().out
    for words in ("sharp.jpg", "7.25", "2026-03-01", "GROUP BY date"):
        assert words in said


def test_a_question_of_ones_own_is_answered_and_a_wrong_one_is_an_error(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", str(output), "SELECT count(*) + 1000 FROM image_scores"]) == 0
    assert "1004" in capsys.readouterr().out
    assert main(["query", str(output), "SELECT nothing FROM image_scores"]) == 2
    assert "nothing" in capsys.readouterr().err
