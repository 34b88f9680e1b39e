"""Adapter directories: written by training, verified where a job is submitted, read on workers.

    adapter_config.json           PEFT's
    adapter_model.safetensors     PEFT's; its header carries the seal
    score_head.safetensors        where the score is read by a head of its own (model.score_heads)
    manifest.json                 schemas.manifest.AdapterManifest; its sha256 is the adapter's revision

The manifest holds the hashes of the other files. The seal, in the weights' header, holds a digest of every
field of the manifest as training wrote it: a field changed afterwards is found, and named. That
guards against accident, not forgery: who can rewrite all files can seal them again. Nothing here
needs torch but ``save_adapter``; ``model.lora`` reads and merges the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from model.adapter_config import (
    ADAPTER_CONFIG_NAME,
    PEFT_PREFIX,
    SCORE_HEAD_NAME,
    WEIGHTS_NAME,
    parse_adapter_config,
    read_adapter_config,
    tensor_name,
)
from model.tensor_files import TensorHeader, read_header, sort_metadata
from schemas.errors import ConfigurationError, ManifestMismatchError
from schemas.manifest import MANIFEST_NAME, READOUT_HEADS, AdapterManifest, BaseModelIdentity

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

SEAL_FIELD = "manifest_fields"
SCORE_HEAD_MODULE = "score_head"
"""What training calls a score head within the model."""
_HEAD_PREFIX = f"{SCORE_HEAD_MODULE}."
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_UNHASHED = frozenset({MANIFEST_NAME, "README.md"})  # PEFT writes a README of its own
_READ_BLOCK_BYTES = 1 << 20


def save_adapter(
    directory: Path,
    weights: PeftModel | Mapping[str, torch.Tensor],
    adapter_config: PeftConfig | Mapping[str, Any] | None,
    manifest: AdapterManifest,
) -> AdapterManifest:
    """Write an adapter directory: it appears complete, or not at all.

    Keys are written in the current layout, so that PEFT loads the directory too.

    Args:
        directory: Must not exist, or be empty: an adapter is never changed in place.
        weights: A PEFT model, or its adapter's state (either key layout); a score head's tensors, named
            ``score_head.…``, go into a file of their own.
        adapter_config: PEFT's; may be None for a PEFT model.
        manifest: With ``files`` empty.

    Returns:
        The manifest with ``files``, as written.

    Raises:
        ConfigurationError: The directory holds something, or the adapter could not be loaded again.
    """
    from model.lora import parse_state

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(f"{directory} exists already; an adapter is never changed in place")
    state, config = _state_and_config(weights, adapter_config)
    head = {name: state.pop(PEFT_PREFIX + _HEAD_PREFIX + name) for name in _head_names(state)}
    config["modules_to_save"] = [
        name for name in config.get("modules_to_save") or () if name != SCORE_HEAD_MODULE
    ] or None
    config["base_model_name_or_path"] = manifest.base_model.name  # never a path of the training machine
    parse_state(parse_adapter_config(config), state)
    problems = _placement_problems({tensor_name(key): () for key in state}, manifest)
    problems += _head_problems(bool(head), manifest)
    if problems:
        raise ManifestMismatchError(problems)
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        manifest = _write(unfinished, state, head, config, manifest)
        unfinished.chmod(0o755)  # mkdtemp's directories are for their owner only
        os.replace(unfinished, directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return manifest


def _head_names(state: Mapping[str, object]) -> list[str]:
    prefix = PEFT_PREFIX + _HEAD_PREFIX
    return sorted(key.removeprefix(prefix) for key in state if key.startswith(prefix))


def _state_and_config(
    weights: PeftModel | Mapping[str, torch.Tensor], adapter_config: PeftConfig | Mapping[str, Any] | None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not isinstance(weights, Mapping):
        from peft import get_peft_model_state_dict

        adapter_config = adapter_config or weights.peft_config["default"]
        weights = get_peft_model_state_dict(weights, save_embedding_layers=False)
    if adapter_config is None:
        raise ValueError("a state needs its adapter_config")
    config = dict(adapter_config if isinstance(adapter_config, Mapping) else adapter_config.to_dict())
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    config["inference_mode"] = True
    state = {PEFT_PREFIX + tensor_name(key): tensor.detach().cpu() for key, tensor in weights.items()}
    return state, config


def _write(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    head: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    manifest: AdapterManifest,
) -> AdapterManifest:
    # As a reader will see it: with every field given.
    written = AdapterManifest.model_validate_json(manifest.to_bytes())
    seal = json.dumps(written.field_digests(), sort_keys=True)
    _write_tensors(folder / WEIGHTS_NAME, state, {"format": "pt", SEAL_FIELD: seal})
    names = [ADAPTER_CONFIG_NAME, WEIGHTS_NAME]
    if head:
        _write_tensors(folder / SCORE_HEAD_NAME, head, {"format": "pt"})
        names.append(SCORE_HEAD_NAME)
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (folder / ADAPTER_CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    files = {name: _file_sha256(folder / name) for name in names}
    manifest = manifest.model_copy(update={"files": files})
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def _write_tensors(file: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file({name: t.contiguous().clone() for name, t in sorted(tensors.items())}, file, metadata=metadata)
    sort_metadata(file)
    # Readable for all who may read the folder; the writer of safetensors leaves it to its owner.
    file.chmod(0o644)


def read_manifest(directory: Path) -> tuple[AdapterManifest, str]:
    """Read ``manifest.json``.

    Returns:
        The manifest, and the adapter's revision: the sha256 of the file's bytes, lower-case hex.

    Raises:
        ManifestMismatchError: Missing, unreadable, or fields that the schema refuses, each by its name.
    """
    path = directory / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestMismatchError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        manifest = AdapterManifest.model_validate_json(content)
    except ValidationError as error:
        reasons = [
            f"{'.'.join(map(str, problem['loc'])) or MANIFEST_NAME}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        ]
        raise ManifestMismatchError(reasons) from error
    return manifest, hashlib.sha256(content).hexdigest()


def check_adapter(
    directory: Path,
    manifest: AdapterManifest,
    base: BaseModelIdentity | None = None,
    expected: Mapping[str, object] | None = None,
) -> None:
    """Raise ``ManifestMismatchError`` with everything that ``verify_adapter`` finds."""
    problems = verify_adapter(directory, manifest, base, expected)
    if problems:
        raise ManifestMismatchError(problems)


def verify_adapter(
    directory: Path,
    manifest: AdapterManifest,
    base: BaseModelIdentity | None = None,
    expected: Mapping[str, object] | None = None,
) -> list[str]:
    """Find everything about an adapter that does not hold here; needs neither torch nor a GPU.

    Args:
        directory: The adapter.
        manifest: From ``read_manifest``.
        base: The base model that is to be used; None leaves it unchecked.
        expected: Dotted field → the value that this version of the software computes itself
            (``conversation.chatml_sha256``, ``answer.templates_sha256``, ``image.image_decoder``).

    Returns:
        One sentence for each mismatch, beginning with the field or file it is about.
    """
    return [
        *_file_problems(directory, manifest),
        *_weight_problems(directory, manifest),
        *_head_problems(SCORE_HEAD_NAME in manifest.files, manifest),
        *_base_problems(manifest.base_model, base),
        *_pin_problems(manifest, expected or {}),
    ]


def _file_problems(directory: Path, manifest: AdapterManifest) -> list[str]:
    root = directory.resolve()
    problems = [
        f"files.{path.relative_to(directory)}: a pickle can run code when it is read; safetensors only"
        for path in sorted(directory.rglob("*"))
        if path.suffix.lower() in _PICKLES
    ]
    for name in (ADAPTER_CONFIG_NAME, WEIGHTS_NAME):
        if name not in manifest.files:
            problems.append(f"files.{name}: the manifest holds no hash of it")
    for name, digest in sorted(manifest.files.items()):
        if "\x00" in name:
            problems.append(f"files.{name!r}: is no name of a file")
            continue
        path = directory / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.resolve().is_relative_to(root):
            # Also a link that leads out: of a hub cache, copy the files it points to.
            problems.append(f"files.{name}: leads out of the adapter's directory")
        elif name in _UNHASHED:
            problems.append(f"files.{name}: must not be hashed by the manifest")
        elif not path.is_file():
            problems.append(f"files.{name}: is missing")
        elif _file_sha256(path) != digest:
            problems.append(f"files.{name}: changed since training (sha256 differs)")
    return problems


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _weight_problems(directory: Path, manifest: AdapterManifest) -> list[str]:
    try:
        header = read_header(directory / WEIGHTS_NAME)
        rule = read_adapter_config(directory)
    except ConfigurationError as error:
        return list(error.reasons)
    shapes = {tensor_name(key): shape for key, shape in header.shapes.items()}
    conflicts = [f"{ADAPTER_CONFIG_NAME}: {problem}" for problem in rule.conflicts(shapes)]
    return _seal_problems(header, manifest) + _placement_problems(shapes, manifest) + conflicts


def _seal_problems(header: TensorHeader, manifest: AdapterManifest) -> list[str]:
    try:
        sealed = dict(json.loads(header.metadata[SEAL_FIELD]))
    except (KeyError, ValueError, TypeError):
        return [f"{WEIGHTS_NAME}: carries no seal of the manifest; write the adapter with save_adapter"]
    fields = manifest.field_digests()
    return [
        f"{name}: changed since training (differs from the seal in {WEIGHTS_NAME})"
        for name in sorted(sealed.keys() | fields.keys())
        if sealed.get(name) != fields.get(name)
    ]


def _placement_problems(names: Mapping[str, object], manifest: AdapterManifest) -> list[str]:
    """Hold ``training.vision`` against the tensors that are there."""
    vision = [name for name in names if name.startswith("model.visual.")]
    low_rank = [".lora_" in name for name in vision]
    if vision and any(low_rank) != all(low_rank):
        return ["training.vision: the weights hold LoRA and whole tensors of the vision tower at once"]
    found = "frozen" if not vision else "lora" if all(low_rank) else "full"
    if found == manifest.training.vision:
        return []
    return [f"training.vision: the manifest says {manifest.training.vision!r}, the weights say {found!r}"]


def _head_problems(is_there: bool, manifest: AdapterManifest) -> list[str]:
    head = manifest.score.head
    if is_there == (head in READOUT_HEADS):
        return []
    return [
        f"score.head: {head!r} {'has no' if is_there else 'needs'} weights of its own ({SCORE_HEAD_NAME})"
    ]


def _base_problems(trained: BaseModelIdentity, base: BaseModelIdentity | None) -> list[str]:
    if base is None:
        return []
    return [
        f"base_model.{field}: trained on {trained.name!r} ({ours[:12]}…), {base.name!r} has {theirs[:12]}…"
        for field in ("config_sha256", "tokenizer_sha256", "tensors_sha256")
        if (ours := getattr(trained, field)) != (theirs := getattr(base, field))
    ]


def _pin_problems(manifest: AdapterManifest, expected: Mapping[str, object]) -> list[str]:
    problems = []
    for field, value in sorted(expected.items()):
        found: Any = manifest.model_dump(mode="json")
        for part in field.split("."):
            found = found[part]
        if found != value:
            problems.append(f"{field}: the adapter was trained with {found!r}, this version has {value!r}")
    return problems
