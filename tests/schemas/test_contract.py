"""The Parquet contract: records, Arrow schemas and the README's table say the same."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.attributes import VOCABULARY
from schemas.records import (
    ImageFacts,
    ImageRef,
    ImageScore,
    Prediction,
    Provenance,
    ScoringFailure,
    column_getters,
)
from schemas.tables import FAILURES_SCHEMA, KEY, SCORES_SCHEMA, markdown_table

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REF = ImageRef("a.jpg", 7, NOW, 3, "a barn", '{"album": 1}')
PROVENANCE = Provenance("base", "adapter", "0" * 64, "score_form", "digit_tree", "0", "cpu", "float32")
SCORE = ImageScore(REF, ImageFacts("f" * 64, 4, 3, 5), Prediction(score=5.0), PROVENANCE, "run", NOW)
FAILURE = ScoringFailure(REF, ImageFacts(), "decode", "DecodeError", "no", False, "adapter", "0", "run", NOW)
NESTED = (ImageRef, ImageFacts, Prediction, Provenance)
ADDED: dict[type, list[str]] = {ScoringFailure: ["role"]}
"""Columns that came after the first version: at the end, null in older files."""


def leaf_types(record: type) -> dict[str, set[Any]]:
    """Column name → Python types (None left out), as the records declare them."""
    found: dict[str, set[Any]] = {}
    hints = typing.get_type_hints(record)
    for field in fields(record):
        kind = hints[field.name]
        if kind in NESTED:
            found |= {name: kinds | found.get(name, set()) for name, kinds in leaf_types(kind).items()}
            continue
        options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        literal = [type(v) for o in options for v in typing.get_args(o)]
        found[field.name] = set(literal) or set(options) - {types.NoneType}
    found.pop("problem", None)
    return found


@pytest.mark.parametrize(("outcome", "schema"), [(SCORE, SCORES_SCHEMA), (FAILURE, FAILURES_SCHEMA)])
def test_only_what_a_record_may_lack_is_nullable_and_what_earlier_versions_did_not_write(
    outcome: Any, schema: pa.Schema
) -> None:
    """``event_time`` is the one exception: a ref may lack it at first, a row never does."""
    optional = optional_names(type(outcome)) | set(ADDED.get(type(outcome), ()))
    assert {field.name for field in schema if field.nullable} == optional - {"event_time"}


def optional_names(record: type) -> set[str]:
    """Columns that the records may leave None."""
    found: set[str] = set()
    hints = typing.get_type_hints(record)
    for field in fields(record):
        kind = hints[field.name]
        if kind in NESTED:
            found |= optional_names(kind)
        elif types.NoneType in typing.get_args(kind):
            found.add(field.name)
    return found - {"problem"}


def python_type(kind: pa.DataType) -> type:
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return str
    if pa.types.is_integer(kind):
        return int
    if pa.types.is_floating(kind):
        return float
    return bool if pa.types.is_boolean(kind) else datetime


@pytest.mark.parametrize(
    ("record", "schema"), [(ImageScore, SCORES_SCHEMA), (ScoringFailure, FAILURES_SCHEMA)]
)
def test_records_and_arrow_schema_have_the_same_columns_and_types(record: type, schema: pa.Schema) -> None:
    declared = leaf_types(record)
    assert set(declared) == set(schema.names)
    for field in schema:
        assert declared[field.name] == {python_type(field.type)}, field.name


def row_of(outcome: Any) -> dict[str, Any]:
    return {name: get(outcome) for name, get in column_getters(type(outcome)).items()}


@pytest.mark.parametrize(("outcome", "schema"), [(SCORE, SCORES_SCHEMA), (FAILURE, FAILURES_SCHEMA)])
def test_an_outcome_read_column_by_column_becomes_an_arrow_row_and_comes_back(
    outcome: Any, schema: pa.Schema
) -> None:
    row = row_of(outcome)
    assert set(row) == set(schema.names)
    table = pa.Table.from_pylist([row], schema=schema)
    assert table.to_pylist() == [row]


def test_every_column_is_read_from_where_the_records_keep_it() -> None:
    row = row_of(replace(SCORE, prediction=Prediction(score=5.0, exposure="Good", context_used="a barn …")))
    told = ("image_uri", "image_id", "event_time", "exposure", "context", "context_used", "adapter", "run_id")
    assert [row[name] for name in told] == [
        "a.jpg", "f" * 64, NOW, "Good", "a barn", "a barn …", "adapter", "run"
    ]  # fmt: skip


def test_what_reading_told_wins_over_what_listing_told() -> None:
    assert row_of(SCORE)["size_bytes"] == 5
    assert row_of(FAILURE)["size_bytes"] == 3


@pytest.mark.parametrize(
    ("record", "schema"), [(ImageScore, SCORES_SCHEMA), (ScoringFailure, FAILURES_SCHEMA)]
)
def test_new_columns_are_at_the_end(record: type, schema: pa.Schema) -> None:
    added = ADDED.get(record, [])
    first_version = schema.names[: len(schema.names) - len(added)]
    assert schema.names == [*first_version, *added]
    assert first_version[-1] == "passthrough_json"


@pytest.mark.parametrize("schema", [SCORES_SCHEMA, FAILURES_SCHEMA])
def test_every_column_says_what_it_means_and_is_flat(schema: pa.Schema) -> None:
    for field in schema:
        assert field.metadata[b"description"], field.name
        assert not pa.types.is_nested(field.type)
        assert set(field.metadata) <= {b"description", b"unit", b"range", b"direction"}
        numeric = pa.types.is_floating(field.type)
        assert not numeric or field.metadata.get(b"range"), f"{field.name} has no range"
    assert set(KEY) <= set(schema.names)


def test_columns_stand_in_the_published_order() -> None:
    names = SCORES_SCHEMA.names
    identity = (
        "image_uri image_generation image_id width_px height_px size_bytes event_time context context_used"
    )
    scores = "score score_std score_greedy score_native composite_score"
    provenance = (
        "base_model adapter adapter_revision role template decoder format_mass engine_version device dtype "
        "schema_version attempt run_id scored_at passthrough_json"
    )
    attributes = [
        column
        for a in VOCABULARY.attributes
        for column in ([a.name, f"{a.name}_expected", f"{a.name}_confidence"] if a.evaluated else [a.name])
    ]
    assert names == [*identity.split(), *scores.split(), *attributes, "reasons", *provenance.split()]


@pytest.mark.parametrize("schema", [SCORES_SCHEMA, FAILURES_SCHEMA])
def test_the_readmes_column_table_is_the_contract(schema: pa.Schema) -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    assert markdown_table(schema) in readme


def test_the_readme_shows_the_query_that_the_command_runs() -> None:
    from beam_pipeline.output.queries import ANALYST_QUERY

    assert ANALYST_QUERY in Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
