"""Ask the shipped adapter about the golden photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import PIL
import torch
import transformers

from model.prepared import PreparedImage
from model.scorer import Scorer
from schemas.records import Prediction
from tests.golden.photographs import photographs_and_copies
from tests.golden.records import (
    DECIDED,
    TOLERANCE,
    TOLERANCE_MEANING,
    Golden,
    GoldenHeader,
    GoldenRecord,
)

OTHER_TEMPLATE = "score_direct"
_SHAKEN_COPIES = 16


def load_scorers() -> dict[str, Scorer]:
    """The shipped adapter on the CPU in float32, by template: its default one and ``OTHER_TEMPLATE``."""
    default = Scorer.load(device="cpu", dtype="float32")
    other = Scorer.load(device="cpu", dtype="float32", template=OTHER_TEMPLATE)
    return {scorer.provenance.template: scorer for scorer in (default, other)}


def predict_golden(scorers: Iterable[Scorer], *, shaken: bool) -> Golden:
    """Predict every golden photograph alone, under every scorer's template.

    Args:
        scorers: Of one adapter.
        shaken: Also look for unclear values; takes ``_SHAKEN_COPIES`` times as long.
    """
    files = photographs_and_copies()
    found = list(scorers)
    records = [
        _record(scorer, name, scorer.prepare(data), shaken)
        for scorer in found
        for name, data in files.items()
    ]
    return Golden(header=_header(found[0]), records=tuple(records))


def _header(scorer: Scorer) -> GoldenHeader:
    said = scorer.provenance
    return GoldenHeader(
        adapter=said.adapter,
        adapter_revision=said.adapter_revision,
        engine_version=said.engine_version,
        torch=torch.__version__,
        transformers=transformers.__version__,
        pillow=PIL.__version__,
        device=said.device,
        dtype=said.dtype,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        batch=1,
        threads=torch.get_num_threads(),
        tolerance=TOLERANCE,
        tolerance_meaning=TOLERANCE_MEANING,
    )


def _record(scorer: Scorer, name: str, image: PreparedImage, shaken: bool) -> GoldenRecord:
    (prediction,) = scorer.predict([image])
    return GoldenRecord(
        photograph=name,
        template=scorer.provenance.template,
        pixels_sha256=hashlib.sha256(image.pixels.tobytes()).hexdigest(),
        unclear=_unclear(scorer, image, prediction) if shaken else (),
        prediction=_rounded(prediction),
    )


def _unclear(scorer: Scorer, image: PreparedImage, prediction: Prediction) -> tuple[str, ...]:
    """Decided fields that one level up or down in every pixel changes: far more than rounding does."""
    draw = np.random.default_rng(0)
    copies = []
    for _ in range(_SHAKEN_COPIES):
        levels = image.pixels + draw.integers(-1, 2, image.pixels.shape)
        copies.append(replace(image, pixels=np.clip(levels, 0, 255).astype(np.uint8)))
    others = scorer.predict(copies)
    return tuple(
        field
        for field in DECIDED
        if any(getattr(other, field) != getattr(prediction, field) for other in others)
    )


def _rounded(prediction: Prediction) -> Prediction:
    rounded: dict[str, Any] = {
        name: round(value, 6) for name, value in asdict(prediction).items() if isinstance(value, float)
    }
    return replace(prediction, **rounded)
