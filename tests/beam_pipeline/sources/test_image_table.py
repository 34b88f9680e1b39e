from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipeline.sources.image_table import read_table, table_problems
from schemas.errors import ConfigurationError


def _csv(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_csv_rows_become_refs_with_context_time_and_passed_through_columns(tmp_path: Path) -> None:
    table = _csv(
        tmp_path,
        "\ufeffimage_uri,context,event_time,campaign,clicks\n"
        '"a, b.jpg",a beach,2026-01-02T03:04:05Z,summer,3\n'
        "*.jpg,,,winter,\n",
    )
    first, second = read_table(table)
    assert first.image_uri == "a, b.jpg"
    assert first.context == "a beach"
    assert first.event_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert json.loads(first.passthrough_json or "") == {"campaign": "summer", "clicks": "3"}
    assert (second.image_uri, second.context, second.event_time) == ("*.jpg", None, None)
    assert table_problems(table) == []


def test_json_lines_keep_the_types_of_passed_through_values(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"image_uri": "a", "n": 3, "tags": ["x", "ü"]}\n\n{"image_uri": "b"}\n', encoding="utf-8"
    )
    first, second = read_table(str(path))
    assert json.loads(first.passthrough_json or "") == {"n": 3, "tags": ["x", "ü"]}
    assert second.passthrough_json is None


def test_parquet_times_are_read_in_their_zone_and_without_one_as_utc(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    zone = timezone(timedelta(hours=2))
    times = [datetime(2026, 1, 1, 1, tzinfo=zone)]
    table = pa.table(
        {
            "image_uri": ["a"],
            "event_time": pa.array(times, pa.timestamp("us", tz="+02:00")),
            "taken": pa.array([datetime(2020, 5, 6)], pa.timestamp("us")),
        }
    )
    pq.write_table(table, path)
    (found,) = read_table(str(path))
    assert found.event_time == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert json.loads(found.passthrough_json or "") == {"taken": "2020-05-06T00:00:00"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("uri\na.jpg\n", "no column image_uri"),
        ("", "no column image_uri"),
        ("image_uri\n", "no rows"),
        ("image_uri\na.jpg\nb.jpg\na.jpg\n", "row 4: a.jpg is in row 2 already"),
        ("image_uri,context\n,x\n", "row 2: image_uri is empty"),
        ("image_uri,event_time\na,yesterday\n", "row 2: event_time 'yesterday' is no ISO 8601 time"),
        ("image_uri,context\na\n", "line 2 does not have 2 cells"),
        ("image_uri\na,b\n", "line 2 does not have 1 cells"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said(tmp_path: Path, text: str, reason: str) -> None:
    (problem,) = table_problems(_csv(tmp_path, text))
    assert reason in problem


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "no JSON object"),
        ("{", "line 1 is no JSON"),
        ('{"image_uri": 7}', "image_uri is empty"),
        ('{"image_uri": "a", "context": ["x"]}', "context must be text"),
        ('{"image_uri": "a", "event_time": 1700000000}', "is no time"),
        ('{"image_uri": "a\\ud800"}', "not valid Unicode"),
        ('{"image_uri": "a", "note": "\\udc00"}', "not valid Unicode"),
    ],
)
def test_what_is_wrong_with_json_lines_is_said(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(line + "\n")
    (problem,) = table_problems(str(path))
    assert reason in problem


def test_all_bad_rows_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    problems = table_problems(_csv(tmp_path, "image_uri,context\n" + ",x\n" * 3))
    assert len(problems) == 3
    problems = table_problems(_csv(tmp_path, "image_uri,context\n" + ",x\n" * 100))
    assert len(problems) == 21
    assert "only 20 are listed" in problems[-1]


def test_a_missing_or_unknown_table_is_said(tmp_path: Path) -> None:
    assert "No such file" in table_problems(str(tmp_path / "no.csv"))[0]
    assert "must end in" in table_problems(str(tmp_path / "no.xlsx"))[0]
    (tmp_path / "no.parquet").write_bytes(b"not parquet")
    assert len(table_problems(str(tmp_path / "no.parquet"))) == 1
    (tmp_path / "latin.csv").write_bytes(b"image_uri\ncaf\xe9.jpg\n")
    assert "utf-8" in table_problems(str(tmp_path / "latin.csv"))[0]


def test_reading_a_bad_row_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="row 2"):
        list(read_table(_csv(tmp_path, "image_uri,context\n,x\n")))
