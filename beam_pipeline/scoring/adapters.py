"""What a job needs to know about its adapters at submission; loads neither torch nor Beam."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from beam_pipeline.scoring.adapter_cache import local_folder
from beam_pipeline.scoring.failures import AdapterIdentity
from beam_pipeline.scoring.pointers import pointer_of
from model.adapters import read_manifest
from model.backbone import EMBEDDED_ADAPTER
from model.checks import checked_manifest
from schemas.errors import ConfigurationError


def adapter_folder(adapter: str | None) -> Path:
    """Directory of an adapter on this machine.

    Args:
        adapter: Its directory, local or in an object store, or a pointer, which is followed once; None = the
            embedded one.

    Raises:
        ConfigurationError: It names no adapter, or cannot be read.
    """
    if adapter is None:
        return EMBEDDED_ADAPTER
    pointer = pointer_of(adapter)
    return fetched(adapter if pointer is None else pointer.target(pointer.read_now()))


def fetched(directory: str) -> Path:
    """Give an adapter directory on this machine; no pointer. Raises ``ConfigurationError``."""
    try:
        return local_folder(directory)
    except OSError as error:
        raise ConfigurationError(
            f"adapter {directory}: cannot be read ({error.strerror or error})"
        ) from error


def read_identity(adapter: str | None) -> AdapterIdentity:
    """Give name and revision of an adapter. Raises ``ConfigurationError``."""
    manifest, revision = read_manifest(adapter_folder(adapter))
    return AdapterIdentity(manifest.name, revision, manifest.training.synthetic)


def adapter_problems(
    adapter: str | None,
    template: str | None,
    base_model: str | None,
    challenger: str | None = None,
    challenger_share: float = 1.0,
) -> list[str]:
    """Say what is wrong with the adapters, their base model or the template asked of them.

    Args:
        adapter: Directory or pointer; None = the embedded one.
        template: Asked of both; None = each one's default.
        base_model: None = the one that an adapter names.
        challenger: Directory; None = there is none.
        challenger_share: Of the images.

    Returns:
        One sentence each.
    """
    of_adapter = _problems(adapter, template, base_model)
    if challenger is None:
        return of_adapter
    problems = list(of_adapter)
    if not 0 < challenger_share <= 1:
        problems.append(f"--challenger-share {challenger_share}: must be more than 0, and at most 1")
    if pointer_of(adapter) is not None:
        problems.append(
            "--challenger: needs an --adapter that stays, not a pointer: name the directory, and start "
            "another job for the next adapter"
        )
    if pointer_of(challenger) is not None:
        problems.append(f"--challenger {challenger}: is a file, must be an adapter directory")
        return problems
    of_challenger = [f"--challenger: {problem}" for problem in _problems(challenger, template, base_model)]
    if not of_adapter and not of_challenger:
        of_challenger = _pair_problems(adapter, challenger)
    return problems + of_challenger


def _problems(adapter: str | None, template: str | None, base_model: str | None) -> list[str]:
    try:
        checked_manifest(adapter_folder(adapter), template, base_model, needs_base=False)
    except ConfigurationError as error:
        return list(error.reasons)
    return []


def _pair_problems(adapter: str | None, challenger: str) -> list[str]:
    """Two good adapters that do not go together."""
    (ours, revision), (theirs, other) = (
        read_manifest(adapter_folder(each)) for each in (adapter, challenger)
    )
    if revision == other:
        return ["--challenger: is the same adapter as --adapter (their manifests are equal)"]
    different = [
        f"base_model.{field}"
        for field in ("config_sha256", "tokenizer_sha256", "tensors_sha256")
        if getattr(ours.base_model, field) != getattr(theirs.base_model, field)
    ]
    if not different:
        return []
    return [
        f"--challenger: was trained on another base model ({theirs.base_model.name}) than --adapter "
        f"({ours.base_model.name}): {', '.join(different)} differ, and both must live on one"
    ]


def is_synthetic(revisions: Iterable[str]) -> bool | None:
    """Say whether one of these adapters learnt from synthetic labels; None where none is known here."""
    try:
        embedded = read_identity(None)
    except ConfigurationError:
        return None
    return embedded.synthetic if embedded.revision in set(revisions) else None
