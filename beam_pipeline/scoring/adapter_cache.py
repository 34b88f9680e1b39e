"""Adapter directories of an object store, copied to this machine: complete and verified, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from beam_pipeline.stores.storage import is_remote, join, local_path, open_binary
from model.adapters import read_manifest, verify_adapter
from schemas.errors import ConfigurationError, ManifestMismatchError
from schemas.manifest import MANIFEST_NAME

_BLOCK_BYTES = 1 << 20
_KEPT = 4
_KEPT_S = 24 * 3600


def local_folder(directory: str) -> Path:
    """Give an adapter directory as a local path.

    One of an object store is copied once, into a folder of this machine's temporary files that is named by
    the adapter's revision. The revision is a hash of the manifest, which holds the hashes of all files: so
    whatever lies there under that name can be checked to be this adapter.

    Args:
        directory: Local, or in an object store.

    Raises:
        ConfigurationError: There is no adapter, or its files are not those of its manifest.
        OSError: It cannot be read now.
    """
    if not is_remote(directory):
        return Path(local_path(directory))
    try:
        with open_binary(join(directory, MANIFEST_NAME)) as file:
            manifest = file.read()
    except FileNotFoundError as error:
        raise ConfigurationError(f"{directory}: there is no {MANIFEST_NAME}, so it is no adapter") from error
    folder = _cache() / hashlib.sha256(manifest).hexdigest()
    if folder.is_dir() and not _is_whole(folder):
        # What cleans temporary files takes old ones away one by one.
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        _fetch(directory, manifest, folder)
    return folder


def _cache() -> Path:
    cache = Path(tempfile.gettempdir()) / f"realqa-adapters-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    return cache


def _is_whole(folder: Path) -> bool:
    try:
        manifest, _ = read_manifest(folder)
    except ConfigurationError:
        return False
    return all((folder / name).is_file() for name in manifest.files)


def _fetch(directory: str, manifest_bytes: bytes, folder: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (unfinished / MANIFEST_NAME).write_bytes(manifest_bytes)
        manifest, _ = read_manifest(unfinished)
        for name in manifest.files:
            if Path(name).name == name:  # any other would leave the folder; it is missed, and named, below
                _copy(join(directory, name), unfinished / name)
        problems = verify_adapter(unfinished, manifest)
        if problems:
            raise ManifestMismatchError([f"{directory}: {problem}" for problem in problems])
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not folder.is_dir():
                raise
            # Another process was faster, with the same files.
        _forget_old_ones(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _forget_old_ones(cache: Path) -> None:
    """A stream that follows a pointer for months meets many adapters; the last ones are kept."""
    changed_at: dict[Path, float] = {}
    for entry in cache.iterdir():
        # Another process may be done with an unfinished copy at this moment.
        with suppress(FileNotFoundError):
            changed_at[entry] = entry.stat().st_mtime
    for entry in sorted(changed_at, key=changed_at.__getitem__, reverse=True)[_KEPT:]:
        # Not one that another process may be reading.
        if time.time() - changed_at[entry] > _KEPT_S:
            shutil.rmtree(entry, ignore_errors=True)


def _copy(uri: str, path: Path) -> None:
    try:
        with open_binary(uri) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK_BYTES)
    except FileNotFoundError:
        path.unlink(missing_ok=True)  # verify_adapter says so, beside whatever else is wrong
