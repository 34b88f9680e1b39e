"""The Parquet contract: Arrow schemas of ``scores/`` and ``failures/``, written by hand, in one place.

Flat columns; new columns only at the end, nullable. Both tables are partitioned by
``date=YYYY-MM-DD`` (UTC day of ``event_time``), which is in the path, not in the files. Every field
carries ``description`` and, where they apply, ``unit``, ``range`` and ``direction`` as metadata.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.attributes import VOCABULARY, Attribute

SCORES, FAILURES = "scores", "failures"
KEY = ("image_uri", "image_generation", "adapter_revision")
"""One champion outcome per key, in the published view."""

_TIME = pa.timestamp("us", tz="UTC")
_CATEGORY = pa.dictionary(pa.int32(), pa.string())
_CONDITIONAL = " (conditional on the slots decided earlier: a lower bound of the uncertainty)"


def _field(
    name: str,
    kind: pa.DataType,
    description: str,
    *,
    nullable: bool = True,
    unit: str = "",
    range: str = "",
    direction: str = "",
) -> pa.Field:
    metadata = {
        "description": description,
        "unit": unit,
        "range": range,
        "direction": direction,
    }
    return pa.field(name, kind, nullable=nullable, metadata={k: v for k, v in metadata.items() if v})


def _attribute_fields(attribute: Attribute) -> list[pa.Field]:
    name, what = attribute.name, attribute.description
    if attribute.kind == "text":
        return [_field(name, pa.string(), what)]
    integer = attribute.kind == "integer"
    value = _field(
        name,
        pa.int8() if integer else _CATEGORY,
        what,
        range="1–10" if integer else "labels of the adapter's vocabulary",
        direction="higher is better" if integer else "",
    )
    expected = _field(
        f"{name}_expected",
        pa.float32(),
        f"expected ordinal code of {name}",
        range=f"1–{max(attribute.codes)} by the default vocabulary",
        direction="higher is better",
    )
    confidence = _field(
        f"{name}_confidence",
        pa.float32(),
        f"probability of the value of {name}{_CONDITIONAL}",
        range="0–1",
        direction="higher is surer",
    )
    return [value, expected, confidence]


_IDENTITY = [
    _field("image_uri", pa.string(), "where the image is", nullable=False),
    _field(
        "image_generation",
        pa.int64(),
        "version of the object: generation in an object store, mtime of a local file",
        unit="store's own, or ns since 1970",
    ),
    _field("image_id", pa.string(), "sha256 of the bytes, hex"),
    _field("width_px", pa.int32(), "upright width before any resize", unit="px"),
    _field("height_px", pa.int32(), "upright height before any resize", unit="px"),
    _field("size_bytes", pa.int64(), "length of the file", unit="bytes"),
    _field(
        "event_time",
        _TIME,
        "when the image arrived (notification, else creation of the generation, else mtime)",
        nullable=False,
        unit="UTC",
    ),
    _field("context", pa.string(), "text about this image, as given"),
    _field("context_used", pa.string(), "the context as the model saw it; null where it saw none"),
]

_PASSTHROUGH = _field(
    "passthrough_json", pa.string(), "further columns of the manifest table, one JSON object"
)

_RANGE = "[0, 10)"
_BETTER = "higher is better"

SCORES_SCHEMA = pa.schema(
    [
        *_IDENTITY,
        _field(
            "score",
            pa.float32(),
            "quality and aesthetics, read as column decoder says; null without a score slot",
            range=_RANGE,
            direction=_BETTER,
        ),
        _field(
            "score_std",
            pa.float32(),
            f"standard deviation of the score's distribution{_CONDITIONAL}; null for one-number heads",
            range="≥ 0",
            direction="lower is surer",
        ),
        _field(
            "score_greedy",
            pa.float32(),
            "the number that greedy decoding writes, or the most probable level or bin; null without either",
            range=_RANGE,
            direction=_BETTER,
        ),
        _field(
            "score_native",
            pa.float32(),
            "score on the scale of the adapter's training labels",
            range="native_low–native_high of the adapter's manifest",
            direction=_BETTER,
        ),
        _field(
            "composite_score",
            pa.float32(),
            "attributes weighted by partial least squares; null without weights",
            range="scale of the feedback that the weights were fitted to",
            direction=_BETTER,
        ),
        *[field for attribute in VOCABULARY.attributes for field in _attribute_fields(attribute)],
        _field("reasons", pa.string(), "reasons in words, one a line, for templates with reasons"),
        _field("base_model", _CATEGORY, "base model", nullable=False),
        _field("adapter", _CATEGORY, "adapter's name", nullable=False),
        _field("adapter_revision", _CATEGORY, "sha256 of the adapter's manifest", nullable=False),
        _field("role", _CATEGORY, "champion, or challenger on a sample", nullable=False),
        _field("template", _CATEGORY, "answer template", nullable=False),
        _field("decoder", _CATEGORY, "how the score is read", nullable=False),
        _field(
            "format_mass",
            pa.float32(),
            "smallest probability, over all tokens, that the allowed values of a choice or digit had; "
            "null where no token was decided",
            range="0–1",
            direction="higher: the adapter fits the template",
        ),
        _field("engine_version", _CATEGORY, "version of this software", nullable=False),
        _field("device", _CATEGORY, "what computed the row", nullable=False),
        _field("dtype", _CATEGORY, "number format of the weights", nullable=False),
        _field("schema_version", pa.int16(), "version of this contract", nullable=False),
        _field("attempt", pa.int16(), "1 for a first run, counts up on retries", nullable=False),
        _field("run_id", _CATEGORY, "the job that wrote the row", nullable=False),
        _field("scored_at", _TIME, "when it was scored", nullable=False, unit="UTC"),
        _PASSTHROUGH,
    ]
)
"""Columns of ``scores/``."""

FAILURES_SCHEMA = pa.schema(
    [
        *_IDENTITY,
        _field("stage", _CATEGORY, "ingest, list, fetch, decode or score", nullable=False),
        _field("error_type", _CATEGORY, "class of the error", nullable=False),
        _field("message", pa.string(), "what is wrong, in words", nullable=False),
        _field("retryable", pa.bool_(), "whether trying again may help", nullable=False),
        _field("attempt", pa.int16(), "1 for a first run, counts up on retries", nullable=False),
        _field("adapter", _CATEGORY, "adapter's name", nullable=False),
        _field("adapter_revision", _CATEGORY, "sha256 of the adapter's manifest", nullable=False),
        _field("run_id", _CATEGORY, "the job that wrote the row", nullable=False),
        _field("failed_at", _TIME, "when it failed", nullable=False, unit="UTC"),
        _PASSTHROUGH,
        _field("role", _CATEGORY, "champion (also where null), or challenger on a sample"),
    ]
)
"""Columns of ``failures/``."""

SCHEMAS = {SCORES: SCORES_SCHEMA, FAILURES: FAILURES_SCHEMA}
"""Both tables."""

TIMES = {SCORES: "scored_at", FAILURES: "failed_at"}
"""When a row came about: of rows of one key and attempt, the latest counts."""


def markdown_table(schema: pa.Schema) -> str:
    """Render a schema as the README's column table: name, type, null, meaning."""
    lines = ["| column | type | null | meaning | unit, range | direction |", "|---|---|---|---|---|---|"]
    for field in schema:
        said = {key.decode(): value.decode() for key, value in field.metadata.items()}
        category = pa.types.is_dictionary(field.type)
        kind = "string (dictionary)" if category else str(field.type)
        measure = "; ".join(filter(None, [said.get("unit"), said.get("range")]))
        cells = [
            f"`{field.name}`",
            "float" if pa.types.is_floating(field.type) else kind,
            "yes" if field.nullable else "",
            said["description"],
            measure,
            said.get("direction", ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
