"""``output``: what a large output costs those who read it at a job's ends. Loads neither torch nor Beam.

The rows are those of some made-up images, over and over under names, ids and scores of their own; no image
failed. Each reader has a process of its own (``tests.benchmarks.output_job``), so that its peak is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.output.parquet import encode
from beam_pipeline.output.sink import to_parquet
from beam_pipeline.scoring.fakes import FakePrepared, FakeScorer
from schemas.records import ImageFacts, ImageRef, ImageScore
from schemas.tables import SCORES

READERS = ("summary", "keys", "compact")
"""The closing summary, ``--skip-scored``'s keys, ``compact``; the last one changes the output."""

REVISION = "fake-revision"

_ROOT = Path(__file__).parents[2]
_MIB = 2**20
_DAY = "2026-01-01"
_SEED = 20261122
_IMAGES = 4096
_START = datetime(2026, 1, 1, tzinfo=UTC)


def measure_output(rows: int, files: int) -> dict[str, Any]:
    """Write an output and read it in every way that a job does.

    Args:
        rows: Of the output, one for each image.
        files: That hold them, on one day.
    """
    with tempfile.TemporaryDirectory() as output:
        folder = Path(output, SCORES, f"date={_DAY}")
        folder.mkdir(parents=True)
        size = write_rows(folder, rows, files)
        readers = [{"reader": reader, **_run(reader, output)} for reader in READERS]
    return {"rows": rows, "files": files, "mib": round(size / _MIB, 1), "readers": readers}


def write_rows(folder: Path, rows: int, files: int) -> int:
    """Write them; gives the bytes written."""
    random = np.random.default_rng(_SEED)
    model = pq.read_table(pa.BufferReader(to_parquet(_outcomes(random), SCORES)))
    bounds = [rows * number // files for number in range(files + 1)]
    written = 0
    for low, high in pairwise(bounds):
        table = model.take(pa.array(random.integers(0, len(model), high - low)))
        own = {
            "image_uri": pa.array([f"gs://photos/uploads/{number:012}.jpg" for number in range(low, high)]),
            "image_id": pa.array([random.bytes(32).hex() for _ in range(low, high)]),
            "image_generation": pa.array(random.integers(1, 2**53, high - low)),
            "score": pa.array(random.uniform(0, 10, high - low).astype(np.float32)),
        }
        for name, column in own.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), column)
        data = encode(table.combine_chunks(), {"image_uri": False})
        Path(folder, f"chunk-{low:032x}.parquet").write_bytes(data)
        written += len(data)
    return written


def _outcomes(random: np.random.Generator) -> list[ImageScore]:
    scorer = FakeScorer(revision=REVISION)
    outcomes = []
    for number in range(_IMAGES):
        width, height, size = (int(value) for value in random.integers(1000, 4_000_000, 3))
        facts = ImageFacts(random.bytes(32).hex(), width, height, size)
        (prediction,) = scorer.predict([FakePrepared(facts, 1, None)])
        when = _START + timedelta(milliseconds=number)
        image = ImageRef(str(number), 1, event_time=when)
        outcomes.append(ImageScore(image, facts, prediction, scorer.provenance, "run", when))
    return outcomes


def _run(reader: str, output: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.output_job", reader, output]
    run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{reader} ended with exit code {run.returncode}:\n{run.stderr}")
    told = json.loads(run.stdout.splitlines()[-1])
    return {
        "rows": told["rows"],
        "seconds": round(told["seconds"], 4),
        "mib": None if told["bytes"] is None else round(told["bytes"] / _MIB),
    }
