"""The published Spark DDL, statement by statement, in a real Spark; it and DuckDB read the same output."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from beam_pipeline.output.compaction import CompactionSettings, compact
from beam_pipeline.output.queries import ANALYST_QUERY, ddl
from beam_pipeline.output.sink import write_chunk
from schemas.records import Outcome, ScoredChunk
from tests.beam_pipeline.helpers import NOW, challenging, failure, files, ref, score

JAVA = shutil.which("java") or shutil.which("java", path=f"{os.environ.get('JAVA_HOME', '')}/bin")
MISSING = [
    name
    for name, there in (
        ("Java", JAVA is not None),
        ("pyspark", importlib.util.find_spec("pyspark") is not None),
    )
    if not there
]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(MISSING), reason=f"Spark needs {' and '.join(MISSING)}: not installed here"),
]

_SPARK = """
import json, os, sys
from pyspark.sql import SparkSession
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
config = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.warehouse.dir": os.path.abspath("warehouse"),
}
spark = SparkSession.builder.master("local[1]").config(map=config).getOrCreate()
for line in sys.stdin:
    given = json.loads(line)
    for statement in given["statements"]:
        spark.sql(statement)
    found = [[list(row) for row in spark.sql(query).collect()] for query in given["queries"]]
    print(json.dumps(found, default=str), file=answers, flush=True)
spark.stop()
"""

VIEWS = [
    f"SELECT * FROM {view} ORDER BY image_uri, image_generation, adapter_revision"
    for view in ("image_scores", "image_challengers", "image_failures")
]
RAW = [f"SELECT count(*), max(attempt) FROM {table}_files" for table in ("scores", "failures")]
Rows = list[list[Any]]
Spark = Callable[[Path, list[str]], list[Rows]]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    """Run the DDL of an output, then queries, in the one Spark session of this module."""
    folder = tmp_path_factory.mktemp("spark")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SPARK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env=os.environ | {"TZ": "UTC"},
        )

    def ask(output: Path, queries: list[str]) -> list[Rows]:
        assert process.stdin is not None
        assert process.stdout is not None
        given = {"statements": _statements(ddl(str(output), "spark")), "queries": queries}
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, (folder / "log").read_text()[-4000:]
        found: list[Rows] = json.loads(answer)
        return found

    yield ask
    process.communicate()


def _statements(sql: str) -> list[str]:
    return [statement for statement in sql.split(";\n") if statement.strip()]


def _in_duckdb(output: Path, queries: list[str]) -> list[Rows]:
    connection = duckdb.connect()
    connection.execute(ddl(str(output)))
    return [
        [[_plain(value) for value in row] for row in connection.execute(query).fetchall()]
        for query in queries
    ]


def _plain(value: Any) -> Any:
    """As JSON brings it from Spark."""
    if isinstance(value, datetime):
        return str(value.astimezone(UTC).replace(tzinfo=None))
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _write(output: Path, *outcomes: Outcome, challengers: tuple[Outcome, ...] = ()) -> None:
    write_chunk(ScoredChunk(outcomes, tuple(challenging(outcome) for outcome in challengers)), str(output))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Days, attempts, adapters, a challenger that became champion, retried failures, an unlisted image."""
    folder = tmp_path / "it's an output"
    said = {
        "image_clarity": "clear",
        "exposure": "properly exposed",
        "composition": 7,
        "reasons": "a; 'ü'\nb",
    }
    for day in range(3):
        time = NOW - timedelta(days=day, microseconds=1)
        a, b, c, d, e = (ref(f"{day}/{name}", event_time=time, context="barn") for name in "abcde")
        scored = [
            score(image, n + day / 10, background_clutter_expected=1 + n / 4, **said)
            for n, image in enumerate((a, b, c))
        ]
        _write(folder, *scored, failure(d), failure(e), challengers=(score(a, 9.0, "r2"), failure(b, "r2")))
        _write(folder, score(replace(a, attempt=2), 8.0), failure(replace(d, attempt=2)))
        _write(folder, score(replace(e, attempt=2), None))
        _write(folder, failure(ref(f"{day}/gone", image_generation=None, event_time=time)))
        _write(folder, score(a, 4.5, "r2"))
    return folder


def test_spark_and_duckdb_read_the_same_rows(output: Path, spark: Spark) -> None:
    queries = [*VIEWS, *RAW, ANALYST_QUERY]
    expected = _in_duckdb(output, queries)
    assert [len(rows) for rows in expected] == [15, 3, 6, 1, 1, 3]
    assert spark(output, queries) == expected


def test_after_compaction_and_more_files_the_same_statements_find_everything(
    output: Path, spark: Spark
) -> None:
    before = spark(output, VIEWS)
    list(compact(str(output), CompactionSettings(delete_after_s=0), before="2026-03-01"))
    kept = files(output)
    assert spark(output, VIEWS) == before
    assert files(output) == kept, "recreating the tables must not touch what they read"
    tomorrow, later = NOW + timedelta(days=1), NOW + timedelta(seconds=1)
    _write(output, score(ref("late", event_time=tomorrow)))
    _write(output, replace(score(ref("late")), scored_at=later), failure(ref("later")))
    found = spark(output, VIEWS)
    assert [len(rows) for rows in found] == [16, 3, 7]
    assert found == _in_duckdb(output, VIEWS)


def test_an_output_without_failures_and_files_of_an_earlier_version_can_be_read(
    tmp_path: Path, spark: Spark
) -> None:
    _write(tmp_path, score(ref("a")))
    assert [len(rows) for rows in spark(tmp_path, VIEWS)] == [1, 0, 0]
    _write(tmp_path, failure(ref("b")))
    (path,) = tmp_path.glob("failures/*/*.parquet")
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["role"]), path)
    found = spark(tmp_path, VIEWS)
    assert [len(rows) for rows in found] == [1, 0, 1]
    assert found == _in_duckdb(tmp_path, VIEWS)
