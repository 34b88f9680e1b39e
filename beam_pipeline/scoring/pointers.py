"""Pointers: a text file that says which adapter directory a job serves, now.

    2026-03-01/stage2               first line: the directory; absolute, gs://…, or from the pointer's folder
    published by anna, srcc 0.91    whatever else is known; not read, but a change of it counts

A job looks at it again and again (``--adapter-poll-s``) and follows it. So publishing an adapter is:
write its directory under a new name, then the pointer, both whole (a new file moved over the old one). What
the pointer names must be a directory that never changes; going back is to write the former name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from beam_pipeline.stores.storage import is_remote, join, local_path, open_binary
from schemas.errors import ConfigurationError
from schemas.manifest import MANIFEST_NAME

MOST_BYTES = 4096
"""A longer file is no pointer."""


@dataclass(frozen=True)
class Pointer:
    """A pointer file.

    Attributes:
        uri: Where it is, local or in an object store.
    """

    uri: str

    def read(self) -> str:
        """Give its content, or the beginning of what is too long for one. Raises ``OSError``."""
        with open_binary(self.uri) as file:
            return file.read(MOST_BYTES + 1).decode(errors="replace")

    def read_now(self) -> str:
        """Give its content. Raises ``ConfigurationError``."""
        try:
            return self.read()
        except OSError as error:
            raise ConfigurationError(
                f"pointer {self.uri}: cannot be read ({error.strerror or error})"
            ) from error

    def target(self, content: str) -> str:
        """Give the adapter directory that a content of it names.

        Raises:
            ConfigurationError: It names none.
        """
        first, *_ = content.removeprefix("\ufeff").split("\n", 1)
        name = first.strip()
        if not name:
            raise ConfigurationError(
                f"pointer {self.uri}: its first line is empty, and should name an adapter"
            )
        if len(content.encode()) > MOST_BYTES or not name.isprintable() or "\ufffd" in name:
            raise ConfigurationError(f"pointer {self.uri}: is no text file that names an adapter")
        if is_remote(name) or os.path.isabs(local_path(name)):
            return name
        folder = self.uri.rpartition("/")[0] if is_remote(self.uri) else os.path.dirname(local_path(self.uri))
        return join(folder, name) if folder else name


def pointer_of(adapter: str | None) -> Pointer | None:
    """Tell a pointer from an adapter directory: the pointer, or None for a directory (or nothing at all)."""
    if adapter is None or (not is_remote(adapter) and not os.path.isfile(local_path(adapter))):
        return None
    # An object and a prefix may share a name in a store: the manifest tells.
    if is_remote(adapter) and (_is_readable(join(adapter, MANIFEST_NAME)) or not _is_readable(adapter)):
        return None
    return Pointer(adapter)


def _is_readable(uri: str) -> bool:
    try:
        with open_binary(uri) as file:
            file.read(1)
    except OSError:
        return False
    return True
