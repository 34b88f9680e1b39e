"""The published way to read an output: DDL for DuckDB, Spark and BigQuery, one row per key.

Files are at least once. ``image_scores`` and ``image_failures`` make it exactly once: of the champion's
rows of one key (image_uri, image_generation, adapter_revision) the highest attempt counts, of those the
latest; an image that has a failure and a score has been scored. ``image_challengers`` gives what challengers
scored, one row per key, too. An adapter that was challenger first and champion later has rows in both.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from beam_pipeline.stores.storage import is_gs, join, list_files
from schemas.errors import ConfigurationError
from schemas.tables import FAILURES, KEY, SCHEMAS, SCORES, TIMES

ANALYST_QUERY = """\
-- sharp, well-exposed photographs with cluttered backgrounds (the busier half), by day
SELECT date, count(*) AS photographs, round(avg(score), 2) AS mean_score, round(max(score), 2) AS best
FROM image_scores
WHERE image_clarity = 'clear'
  AND exposure = 'properly exposed'
  AND background_clutter_expected <= (SELECT median(background_clutter_expected) FROM image_scores)
GROUP BY date
ORDER BY date"""
"""What a marketing analyst would ask."""

TABLE_QUERY = """\
-- the best photographs first
SELECT parse_filename(image_uri) AS photograph, round(score, 2) AS score, round(score_std, 2) AS std,
  image_clarity, exposure, saturation
FROM image_scores
ORDER BY score DESC NULLS LAST
LIMIT 60"""

DIALECTS = ("duckdb", "spark", "bigquery")

_ARROW_TYPES = ("int8", "int16", "int32", "int64", "float", "string", "bool", "time")
_TYPES = {
    dialect: dict(zip(_ARROW_TYPES, names.split(), strict=True))
    for dialect, names in {
        "duckdb": "TINYINT SMALLINT INTEGER BIGINT FLOAT VARCHAR BOOLEAN TIMESTAMPTZ",
        "spark": "TINYINT SMALLINT INT BIGINT FLOAT STRING BOOLEAN TIMESTAMP",
        "bigquery": "INT64 INT64 INT64 INT64 FLOAT64 STRING BOOL TIMESTAMP",
    }.items()
}


def ddl(output: str, dialect: str = "duckdb") -> str:
    """Give the statements that make an output queryable.

    Args:
        output: Directory of a job. For DuckDB and Spark it is looked at: a table without files yet (no
            failures, say) is an empty one, as DuckDB refuses a pattern that matches nothing, and Spark to
            look for days in a directory that is not there.
        dialect: One of ``DIALECTS``.

    Returns:
        SQL: the raw tables ``scores_files`` and ``failures_files``, and the views ``image_scores``,
        ``image_challengers`` and ``image_failures`` with one row per key.
    """
    tables = [_TABLES[dialect](output, table) for table in SCHEMAS]
    views = [_scores_view("image_scores", "champion"), _scores_view("image_challengers", "challenger")]
    return "\n\n".join([*tables, *views, _failures_view()]) + "\n"


def answer(output: str, sql: str) -> str:
    """Ask an output a question with DuckDB, and give the answer as a table for a terminal.

    Args:
        output: Directory of a job.
        sql: About ``image_scores`` and ``image_failures``.

    Raises:
        ConfigurationError: DuckDB is not installed, or refuses the question; the output cannot be read.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigurationError("this needs DuckDB: pip install duckdb") from error
    connection = duckdb.connect()
    try:
        if is_gs(output):
            from beam_pipeline.stores.gcs_file_system import GcsFileSystem

            # Before DuckDB's own way, which wants keys of another kind than gcloud's.
            connection.register_filesystem(GcsFileSystem())
        connection.execute(ddl(output))
        connection.execute(sql)
        names = [column[0] for column in connection.description or ()]
        return _table(names, connection.fetchall())
    except duckdb.Error as error:
        raise ConfigurationError(f"DuckDB: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{output}: {error.strerror or error}") from error


def _table(names: list[str], rows: list[tuple[Any, ...]]) -> str:
    """All rows, aligned; numbers to the right."""
    texts = [names, *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [any(isinstance(row[index], (int, float)) for row in rows) for index in range(len(names))]
    lines = []
    for cells in [*texts[:1], ["-" * width for width in widths], *texts[1:]]:
        aligned = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, right, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join([*lines, f"({len(rows):,} rows)"])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def type_of(kind: pa.DataType, dialect: str) -> str:
    """Name an Arrow type of the contract in a dialect."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _TYPES[dialect]["time" if pa.types.is_timestamp(kind) else str(kind)]


def _columns(table: str, dialect: str) -> list[tuple[str, str]]:
    return [(field.name, type_of(field.type, dialect)) for field in SCHEMAS[table]]


def _duckdb_table(output: str, table: str) -> str:
    columns = ",\n  ".join(f"NULL::{kind} AS {name}" for name, kind in _columns(table, "duckdb"))
    # Also beside files: those of earlier versions lack the columns that came later.
    empty = f"SELECT\n  {columns},\n  NULL::DATE AS date\nWHERE false"
    head = f"CREATE OR REPLACE VIEW {table}_files AS\n{empty}"
    if not list_files(join(output, table), ".parquet"):
        return f"{head};"
    pattern = join(output, table, "date=*", "*.parquet").replace("'", "''")
    files = f"read_parquet('{pattern}', hive_partitioning = true, union_by_name = true)"
    return f"{head}\nUNION ALL BY NAME\nSELECT * FROM {files};"


def _spark_table(output: str, table: str) -> str:
    columns = ",\n  ".join(f"{name} {kind}" for name, kind in _columns(table, "spark"))
    place = join(output, table).replace("'", "\\'")
    # Made anew: an older one may lack columns that came later, or lie elsewhere. The table is external (it
    # has a location), so dropping it removes no file.
    made = (
        f"DROP TABLE IF EXISTS {table}_files;\n"
        f"CREATE TABLE {table}_files (\n  {columns},\n  date DATE\n)\n"
        f"USING parquet PARTITIONED BY (date) LOCATION '{place}';"
    )
    if not list_files(join(output, table), ".parquet"):
        return made
    return f"{made}\nMSCK REPAIR TABLE {table}_files;"


def _bigquery_table(output: str, table: str) -> str:
    columns = ",\n  ".join(f"{name} {kind}" for name, kind in _columns(table, "bigquery"))
    place = join(output, table)
    return (
        f"CREATE OR REPLACE EXTERNAL TABLE {table}_files (\n  {columns}\n)\n"
        f"WITH PARTITION COLUMNS (date DATE)\n"
        f"OPTIONS (format = 'PARQUET', uris = ['{place}/*.parquet'], hive_partition_uri_prefix = '{place}');"
    )


_TABLES = {"duckdb": _duckdb_table, "spark": _spark_table, "bigquery": _bigquery_table}


def _one_per_key(table: str, role: str) -> str:
    # The role first, then the numbers: numbered together, an image that an adapter scored as challenger
    # could hide the same image that it scored as champion. Failures of earlier versions have no role.
    return (
        f"SELECT *, ROW_NUMBER() OVER (\n"
        f"    PARTITION BY {', '.join(KEY)} ORDER BY attempt DESC, {TIMES[table]} DESC\n"
        f"  ) AS row_of_key FROM {table}_files WHERE COALESCE(role, 'champion') = '{role}'"
    )


def _names(table: str) -> str:
    return ", ".join([*(field.name for field in SCHEMAS[table]), "date"])


def _scores_view(name: str, role: str) -> str:
    return (
        f"CREATE OR REPLACE VIEW {name} AS\nSELECT {_names(SCORES)}\nFROM (\n"
        f"  {_one_per_key(SCORES, role)}\n) AS numbered\nWHERE row_of_key = 1;"
    )


def _failures_view() -> str:
    return (
        f"CREATE OR REPLACE VIEW image_failures AS\nSELECT {_names(FAILURES)}\nFROM (\n"
        f"  {_one_per_key(FAILURES, 'champion')}\n) AS numbered\nWHERE row_of_key = 1 AND NOT EXISTS (\n"
        "  SELECT 1 FROM scores_files\n"
        "  WHERE scores_files.role = 'champion'\n"
        "    AND scores_files.image_uri = numbered.image_uri\n"
        "    AND scores_files.adapter_revision = numbered.adapter_revision\n"
        "    -- what could not even be listed has no generation\n"
        "    AND (numbered.image_generation IS NULL\n"
        "      OR scores_files.image_generation = numbered.image_generation)\n"
        ");"
    )
