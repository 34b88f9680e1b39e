"""Where bytes are: local paths, and object stores through Beam's file systems.

Beam is imported only when a uri has a scheme, so that everything local (and ``--help``) starts without it.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from typing import BinaryIO, cast
from urllib.parse import unquote

from schemas.errors import FetchError, ImageLimitError
from schemas.records import ImageRef

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_NOT_WORTH_RETRYING = (
    errno.ENOENT,
    errno.EACCES,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


def is_remote(uri: str) -> bool:
    """Say whether a uri names an object store rather than this machine's files."""
    return bool(_SCHEME.match(uri)) and not uri.startswith("file://")


def local_path(uri: str) -> str:
    """Give the path of a local uri: itself, or what follows ``file://``."""
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def join(folder: str, *names: str) -> str:
    """Join names to a folder, local or remote."""
    return "/".join([folder.rstrip("/"), *names])


def open_binary(uri: str) -> BinaryIO:
    """Open a uri for reading.

    Raises:
        OSError: It cannot be read (Beam's own error is one, too).
    """
    if not is_remote(uri):
        return open(local_path(uri), "rb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    # Beam guesses compression from the name; an object is what its bytes are.
    return cast(BinaryIO, FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED))


def read_image(ref: ImageRef, max_file_bytes: int) -> bytes:
    """Read an image's bytes, never more than the limit.

    Args:
        ref: Which image; where it has a generation, a local file must still be that version.
        max_file_bytes: Larger files are refused without being read.

    Raises:
        FetchError: The bytes cannot be read, or are no longer those that were listed.
        ImageLimitError: The file is larger than the limit.
    """
    uri = ref.image_uri
    try:
        with open_binary(uri) as file:
            if not is_remote(uri):
                _check_version(ref, os.fstat(file.fileno()).st_mtime_ns)
            data = file.read(max_file_bytes + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FetchError(
            f"cannot be read: {reason}",
            image_uri=uri,
            retryable=error.errno not in _NOT_WORTH_RETRYING,
        ) from error
    if len(data) > max_file_bytes:
        raise ImageLimitError(f"the file has more than {max_file_bytes:,} bytes", image_uri=uri)
    return data


def _check_version(ref: ImageRef, mtime_ns: int) -> None:
    if ref.image_generation is not None and mtime_ns != ref.image_generation:
        raise FetchError("the file changed after it was listed", image_uri=ref.image_uri, retryable=True)


def put_file(uri: str, data: bytes) -> None:
    """Write a whole file so that no reader ever sees a part of it, and a crash leaves old or new.

    Locally: a hidden temporary name in the same directory, then ``os.replace``. In an object store: one
    upload, which is atomic there.
    """
    if is_remote(uri):
        from apache_beam.io.filesystem import CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
        return
    path = local_path(uri)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # Two workers may write the same chunk at the same time (speculative execution): each its own name.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def remove_file(uri: str) -> None:
    """Remove a file if it is there."""
    if is_remote(uri):
        from apache_beam.io.filesystems import FileSystems

        if FileSystems.exists(uri):
            FileSystems.delete([uri])
        return
    path = local_path(uri)
    if os.path.exists(path):
        os.remove(path)


def list_files(folder: str, suffix: str) -> list[str]:
    """List the files below a folder that end in a suffix, sorted; hidden ones are left out."""
    if is_remote(folder):
        from apache_beam.io.filesystems import FileSystems

        (result,) = FileSystems.match([join(folder, "**")])
        found = [metadata.path for metadata in result.metadata_list if metadata.path.endswith(suffix)]
        return sorted(path for path in found if not path.rsplit("/", 1)[-1].startswith((".", "_")))
    root = local_path(folder)
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(root)
        for name in names
        if name.endswith(suffix) and not name.startswith((".", "_"))
    )
