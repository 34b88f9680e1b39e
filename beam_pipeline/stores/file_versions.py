"""Removing a file only if it is still the one that was read: others may replace it at any time."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress

from beam_pipeline.stores import gcs
from beam_pipeline.stores.storage import is_gs, is_remote, local_path


def version_of(uri: str) -> str | None:
    """Name the present version of a file: another one after every replacement; None = no such file.

    Raises:
        OSError: The storage refuses.
    """
    if not is_remote(uri):
        return _local_version(local_path(uri))
    if is_gs(uri):
        found = gcs.find(uri)
        return None if found is None else str(found.generation)
    from apache_beam.io.filesystems import FileSystems

    return str(FileSystems.checksum(uri)) if FileSystems.exists(uri) else None


def remove_version(uri: str, version: str) -> bool:
    """Remove a file if it still is this version.

    No replacement is ever lost on local disk and ``gs://``. In other stores one is that comes between looking
    and removing, which are one request apart.

    Returns:
        Whether it is gone; False where it was replaced.

    Raises:
        OSError: The storage refuses.
    """
    present = version_of(uri)
    if present is None:
        return True
    if present != version:
        return False
    if not is_remote(uri):
        return _remove_local(local_path(uri), version)
    if is_gs(uri):
        gcs.delete_generation(uri, int(version))
        return version_of(uri) is None
    from apache_beam.io.filesystems import FileSystems

    FileSystems.delete([uri])
    return True


def _local_version(path: str) -> str | None:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return None
    return f"{info.st_mtime_ns}-{info.st_size}-{info.st_ino}"


def _remove_local(path: str, version: str) -> bool:
    # No system call removes a file only if it is a certain one. So it is moved aside first, and looked at
    # where nobody replaces it any more.
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if _local_version(aside) == version:
        os.remove(aside)
        return True
    # Unlike a rename, a link never replaces what came meanwhile, which is newer still.
    with suppress(FileExistsError):
        os.link(aside, path)
    os.remove(aside)
    return False
