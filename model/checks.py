"""Everything that can be said about an adapter before a GPU, torch or Beam is touched.

A job runs this at submission, the scorer again when it loads: one check, two callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.adapters import read_manifest, verify_adapter
from model.backbone import base_identity, load_tokenizer, resolve_base
from model.compiling import compile_template
from model.conversation import chatml_sha256
from model.images import IMAGE_DECODER
from model.resizing import RESIZES
from model.templates import answer_template, served_templates, templates_sha256
from model.tokens import IM_END, TextEncoder
from schemas.errors import ConfigurationError, ManifestMismatchError
from schemas.manifest import AdapterManifest


@dataclass(frozen=True)
class CheckedAdapter:
    """An adapter that passed every check.

    Attributes:
        manifest: Its manifest.
        revision: sha256 of the manifest's bytes.
        base_path: Directory of the base model that it fits; None where it was not needed and is not here.
    """

    manifest: AdapterManifest
    revision: str
    base_path: Path | None


def checked_manifest(
    directory: Path, template: str | None, base_model: str | None, *, needs_base: bool = True
) -> CheckedAdapter:
    """Check an adapter against its files, its base model, this version and what is asked of it.

    Args:
        directory: The adapter.
        template: Answer template asked for; None = its default.
        base_model: Name or path of the base model; None = the one that the manifest names.
        needs_base: Whether a base model that is not here is an error (and is fetched, if it has a name on
            the hub). A job is submitted from machines that never see the base; its workers check it.

    Raises:
        ManifestMismatchError: With every mismatch, each named by its field.
        ConfigurationError: The template is unknown to the adapter, or there is no such base model.
    """
    manifest, revision = read_manifest(directory)
    problems: list[str] = []
    base_path = None
    try:
        base_path = resolve_base(base_model or manifest.base_model.name, fetch=needs_base)
        base = base_identity(base_path, base_model or manifest.base_model.name)
    except ConfigurationError as error:
        problems += error.reasons if needs_base or base_path is not None else ()
        base = None
    mismatches = verify_adapter(directory, manifest, base, _own_pins(manifest))
    if template is not None and template not in manifest.answer.templates:
        problems.append(
            f"template {template!r}: {manifest.name} was trained on {', '.join(manifest.answer.templates)}"
        )
    if base_path is not None and not mismatches:
        problems += _template_problems(manifest, template, base_path)
    if mismatches:
        raise ManifestMismatchError([*mismatches, *problems])
    if problems:
        raise ConfigurationError(problems)
    return CheckedAdapter(manifest, revision, base_path)


def _template_problems(manifest: AdapterManifest, template: str | None, base_path: Path) -> list[str]:
    """Compile the template here, rather than find out on every worker that it cannot be."""
    name = template or manifest.answer.default_template
    if name not in manifest.answer.templates:
        return []  # said already
    try:
        encoder = TextEncoder(load_tokenizer(base_path))
        shape = answer_template(name, manifest.vocabulary, manifest.score)
        compile_template(shape, encoder, encoder.special(IM_END), manifest.answer.tokenisation)
    except ConfigurationError as error:
        return list(error.reasons)
    return []


def _own_pins(manifest: AdapterManifest) -> dict[str, object]:
    """What this version computes itself for fields that pin wording and code paths."""
    conversation, answer, decoder = manifest.conversation, manifest.answer, manifest.image.image_decoder
    pins: dict[str, object] = {
        "conversation.chatml_sha256": chatml_sha256(conversation.system, conversation.instruction),
        "image.image_decoder": decoder if decoder in RESIZES else IMAGE_DECODER,
    }
    if set(answer.templates) <= set(served_templates(manifest.vocabulary, manifest.score)):
        pins["answer.templates_sha256"] = templates_sha256(
            answer.templates, manifest.vocabulary, manifest.score
        )
    else:
        pins["answer.templates"] = "names that model.templates knows"
    return pins
