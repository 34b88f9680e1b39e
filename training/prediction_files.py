"""Attributes that a pipeline run wrote, by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.attributes import Vocabulary
from schemas.errors import ConfigurationError
from schemas.tables import SCORES

_IDENTITY = ("image_uri", "image_generation", "attempt", "adapter_revision", "template")


def read_expected_codes(
    path: Path, images: Sequence[Path], revision: str, template: str | None, vocabulary: Vocabulary
) -> list[dict[str, float] | None]:
    """Read the expected codes of images' attributes.

    Args:
        path: A Parquet file of scores, or the output folder of a pipeline run.
        images: Files, found again by their resolved path: uris in the table that are relative count from
            the working directory, as they did for the run.
        revision: Only rows of the adapter with this revision.
        template: Only rows of this answer template; None = the only one there is.
        vocabulary: The attributes.

    Returns:
        Codes by attribute, one an image; what the template did not ask for is left out. None for an image
        without a row. Of several rows the newest generation's last attempt counts, as in the published view.

    Raises:
        ConfigurationError: No such file, no such table, no row of this adapter, or rows of several templates.
    """
    codes = {f"{one.name}_expected": one.name for one in vocabulary.evaluated}
    rows = [row for row in _rows(path, (*_IDENTITY, *codes)) if row["adapter_revision"] == revision]
    if not rows:
        raise ConfigurationError(f"{path}: no row of the adapter's revision {revision[:12]}")
    templates = {row["template"] for row in rows}
    if template is None and len(templates) > 1:
        raise ConfigurationError(f"{path}: rows of several templates: {', '.join(sorted(templates))}")
    chosen = [row for row in rows if template in (None, row["template"])]
    found = {_place(row["image_uri"]): row for row in sorted(chosen, key=_age)}
    return [
        None
        if (row := found.get(str(image.resolve()))) is None
        else {name: row[column] for column, name in codes.items() if row[column] is not None}
        for image in images
    ]


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    files = sorted((path / SCORES).rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ConfigurationError(f"{path}: no {SCORES}/**/*.parquet in this folder")
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            table = pq.ParquetFile(file)
            missing = set(columns) - set(table.schema_arrow.names)
            if missing:
                raise ConfigurationError(f"{file}: no table of scores, column {min(missing)} is missing")
            rows += table.read(columns=list(columns)).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ConfigurationError(f"{file}: cannot be read as Parquet ({error})") from error
    return rows


def _place(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).resolve())


def _age(row: dict[str, Any]) -> tuple[int, int]:
    generation = row["image_generation"]
    return (-1 if generation is None else generation, row["attempt"])
