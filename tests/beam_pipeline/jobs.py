"""Running whole jobs in tests, and asking what they left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from beam_pipeline.__main__ import main
from beam_pipeline.output.queries import ddl
from beam_pipeline.scoring.fakes import FakeScorerFactory


def score(photos: Path, output: Path, *more: str, factory: FakeScorerFactory | None = None) -> int:
    arguments = ["--input", str(photos), "--output", str(output), "--chunk-size", "8", "--no-progress"]
    return main([*arguments, *more], factory or FakeScorerFactory())


def query(output: Path, sql: str) -> list[Any]:
    connection = duckdb.connect()
    connection.execute(ddl(str(output)))
    found: list[Any] = connection.execute(sql).fetchall()
    return found
