"""What can be said about an adapter at submission, with neither torch nor Beam."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from beam_pipeline.failures import AdapterIdentity
from schemas.errors import ConfigurationError
from schemas.manifest import MANIFEST_NAME, AdapterManifest


def embedded_adapter() -> Path:
    """Directory of the adapter that ships inside ``model``."""
    import model

    return Path(model.__file__ or "").parent / "embedded" / "adapter"


def read_manifest(adapter: str | None) -> tuple[AdapterManifest, str]:
    """Read an adapter's manifest.

    Args:
        adapter: Its directory; None = the embedded one.

    Returns:
        The manifest, and the revision: sha256 of the file.

    Raises:
        ConfigurationError: There is none, or it is not valid.
    """
    folder = Path(adapter) if adapter is not None else embedded_adapter()
    path = folder / MANIFEST_NAME
    try:
        data = path.read_bytes()
        manifest = AdapterManifest.model_validate_json(data)
    except OSError as error:
        raise ConfigurationError(
            f"--adapter {folder}: no adapter there ({path}: {error.strerror})"
        ) from error
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()]
        raise ConfigurationError(
            [f"--adapter {folder}: {MANIFEST_NAME}: {reason}" for reason in reasons]
        ) from error
    return manifest, hashlib.sha256(data).hexdigest()


def read_identity(adapter: str | None) -> AdapterIdentity:
    """Give name and revision of an adapter. Raises ``ConfigurationError``."""
    manifest, revision = read_manifest(adapter)
    return AdapterIdentity(manifest.name, revision, manifest.training.synthetic)


def adapter_problems(adapter: str | None, template: str | None) -> list[str]:
    """Say what is wrong with an adapter and the template asked of it, one sentence each.

    The hashes of the weights and the base model are checked by the loader, on the worker.
    """
    try:
        manifest, _ = read_manifest(adapter)
    except ConfigurationError as error:
        return list(error.reasons)
    known = manifest.answer.templates
    if template is not None and template not in known:
        return [f"--template {template}: the adapter {manifest.name} was trained on {', '.join(known)} only"]
    return []


def is_synthetic(revisions: Iterable[str]) -> bool | None:
    """Say whether one of these adapters learnt from synthetic labels; None where none is known here."""
    try:
        embedded = read_identity(None)
    except ConfigurationError:
        return None
    return embedded.synthetic if embedded.revision in set(revisions) else None
