"""A tiny random adapter as stage 1 leaves one: attributes, no score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.templates import templates_sha256
from schemas.attributes import VOCABULARY
from schemas.manifest import Answer, ScoreScale, Training
from tests.model.artefact import Artefact, write_artefact

TEMPLATES = ("mix",)


def write_stage1_artefact(folder: Path, **changes: Any) -> Artefact:
    fields: dict[str, Any] = {
        "answer": Answer(
            templates=TEMPLATES,
            default_template="mix",
            templates_sha256=templates_sha256(TEMPLATES, VOCABULARY, ScoreScale()),
        ),
        "training": Training(stage="stage1", fingerprint="f" * 64),
    }
    return write_artefact(folder, **{**fields, **changes})
