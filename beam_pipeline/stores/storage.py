"""Where bytes are: local paths, Google Cloud Storage, and other object stores through Beam's file systems.

``gs://`` goes through its own client (``beam_pipeline.stores.gcs``), which knows generations. What a uri
does not need is not imported, so that everything local (and ``--help``) starts at once.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from typing import BinaryIO, cast
from urllib.parse import unquote

from beam_pipeline.stores import gcs, gcs_access
from schemas.errors import FetchError, ImageLimitError
from schemas.records import ImageRef

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_NOT_WORTH_RETRYING = (
    errno.ENOENT,
    errno.EACCES,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


def is_remote(uri: str) -> bool:
    """Say whether a uri names an object store rather than this machine's files."""
    return bool(_SCHEME.match(uri)) and not uri.startswith("file://")


def is_gs(uri: str) -> bool:
    """Say whether a uri names an object, or a prefix, in Google Cloud Storage."""
    return uri.startswith("gs://")


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
    if is_gs(uri):
        return gcs.open_object(uri)
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    # Beam guesses compression from the name; an object is what its bytes are.
    return cast(BinaryIO, FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED))


def read_image(ref: ImageRef, max_file_bytes: int) -> bytes:
    """Read an image's bytes, never more than the limit.

    Args:
        ref: Which image. Where it has a generation, that very one is read from Google Cloud Storage, and a
            local file must still be that version.
        max_file_bytes: Larger files are refused without being read.

    Raises:
        FetchError: The bytes cannot be read, or are no longer those that were listed; says whether an
            object was deleted or superseded.
        ImageLimitError: The file is larger than the limit.
    """
    uri = ref.image_uri
    too_large = ImageLimitError(f"the file has more than {max_file_bytes:,} bytes", image_uri=uri)
    if is_gs(uri) and ref.image_generation is not None and (ref.size_bytes or 0) > max_file_bytes:
        raise too_large
    try:
        data = _read(ref, max_file_bytes)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FetchError(
            f"cannot be read: {reason}",
            image_uri=uri,
            retryable=error.errno not in _NOT_WORTH_RETRYING,
        ) from error
    if len(data) > max_file_bytes:
        raise too_large
    return data


def _read(ref: ImageRef, max_file_bytes: int) -> bytes:
    """All bytes, or some more than the limit."""
    uri = ref.image_uri
    if is_gs(uri):
        return gcs.read(uri, ref.image_generation, max_file_bytes)
    with open_binary(uri) as file:
        if is_remote(uri):
            return file.read(max_file_bytes + 1)
        # Room for as much as the file has, not for the limit, unless it does not say, as a pipe.
        has = os.fstat(file.fileno()).st_size or max_file_bytes
        data = file.read(min(has, max_file_bytes) + 1)
        if len(data) > has:  # it has grown since
            data += file.read(max_file_bytes + 1 - len(data))
        # Afterwards: it may be overwritten while it is read, and half of each version is neither.
        _check_version(ref, os.fstat(file.fileno()).st_mtime_ns)
        return data


def _check_version(ref: ImageRef, mtime_ns: int) -> None:
    if ref.image_generation is not None and mtime_ns != ref.image_generation:
        raise FetchError("the file changed after it was listed", image_uri=ref.image_uri, retryable=True)


def put_file(uri: str, data: bytes) -> None:
    """Write a whole file so that no reader ever sees a part of it, and a crash leaves old or new.

    Locally: a hidden temporary name in the same directory, then ``os.replace``. In an object store: one
    upload, which is atomic there; in Google Cloud Storage under a generation precondition (``gcs.put``).

    Raises:
        OSError: It cannot be written.
    """
    if is_gs(uri):
        gcs.put(uri, data)
        return
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
    if is_gs(uri):
        gcs.delete(uri)
        return
    if is_remote(uri):
        from apache_beam.io.filesystems import FileSystems

        if FileSystems.exists(uri):
            FileSystems.delete([uri])
        return
    path = local_path(uri)
    if os.path.exists(path):
        os.remove(path)


def list_files(folder: str, suffix: str) -> list[str]:
    """List the files below a folder that end in a suffix, sorted; hidden ones are left out.

    Raises:
        OSError: An object store refuses.
    """
    paths = _remote_files(folder) if is_remote(folder) else _local_files(local_path(folder))
    return sorted(
        path for path in paths if path.endswith(suffix) and not path.rsplit("/", 1)[-1].startswith((".", "_"))
    )


def bucket_problem(uri: str, *, writing: bool = False) -> str | None:
    """Say in seconds why the place of a ``gs://`` uri cannot be used; None if it can, and for other uris.

    Args:
        uri: What will be read, listed or written below.
        writing: Ask for the right to write there, too; nothing is written.
    """
    return gcs_access.bucket_problem(uri, writing=writing) if is_gs(uri) else None


def _local_files(root: str) -> Iterator[str]:
    return (os.path.join(parent, name) for parent, _, names in os.walk(root) for name in names)


def _remote_files(folder: str) -> Iterator[str]:
    if is_gs(folder):
        return (found.uri for found in gcs.list_prefix(join(folder, "")))
    from apache_beam.io.filesystems import FileSystems

    (result,) = FileSystems.match([join(folder, "**")])
    return (metadata.path for metadata in result.metadata_list)
