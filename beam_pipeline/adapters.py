"""What a job needs to know about its adapter at submission; loads neither torch nor Beam."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from beam_pipeline.failures import AdapterIdentity
from model.adapters import read_manifest
from model.backbone import EMBEDDED_ADAPTER
from model.checks import checked_manifest
from schemas.errors import ConfigurationError


def adapter_folder(adapter: str | None) -> Path:
    """Directory of an adapter; None = the embedded one."""
    return EMBEDDED_ADAPTER if adapter is None else Path(adapter)


def read_identity(adapter: str | None) -> AdapterIdentity:
    """Give name and revision of an adapter. Raises ``ConfigurationError``."""
    manifest, revision = read_manifest(adapter_folder(adapter))
    return AdapterIdentity(manifest.name, revision, manifest.training.synthetic)


def adapter_problems(adapter: str | None, template: str | None, base_model: str | None) -> list[str]:
    """Say what is wrong with an adapter, its base model or the template asked of it, one sentence each."""
    try:
        checked_manifest(adapter_folder(adapter), template, base_model, needs_base=False)
    except ConfigurationError as error:
        return list(error.reasons)
    return []


def is_synthetic(revisions: Iterable[str]) -> bool | None:
    """Say whether one of these adapters learnt from synthetic labels; None where none is known here."""
    try:
        embedded = read_identity(None)
    except ConfigurationError:
        return None
    return embedded.synthetic if embedded.revision in set(revisions) else None
