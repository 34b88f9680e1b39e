"""Objects of Google Cloud Storage: found with their generations, read by generation, written under one.

Every error is an ``OSError`` in plain words (``gcs_access.plainly``). What the store may answer later (429,
5xx, time-outs) has then been tried for ``RETRY_S`` seconds.
"""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import io
import random
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

from beam_pipeline.stores.gcs_access import REQUEST_S, WILD, client, plainly, retrying, split_uri

_FIELDS = "items(name,generation,size,timeCreated),nextPageToken"
_NO_BUCKET = "no such bucket"
_HEAD_BYTES = 4 * 1024 * 1024
_BUFFER_BYTES = 1024 * 1024
_PUT_TRIES = 8
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as it was listed.

    Attributes:
        uri: ``gs://bucket/name``.
        generation: Its version; another one for every write.
        size_bytes: As stored.
        created: When this generation was written, UTC. (``updated`` also moves with the metadata, and with it
            the day of a row would.)
    """

    uri: str
    generation: int
    size_bytes: int
    created: datetime


def list_objects(pattern: str) -> Iterator[ObjectInfo]:
    """Find objects, 1,000 a request, sorted by name.

    Args:
        pattern: In the language of Beam's file systems: ``*`` is anything but a slash, ``**`` anything,
            ``?`` one character, ``[...]`` one of these. So ``a/**/b`` asks for two slashes. Without any
            of them, one object is looked up.

    Raises:
        OSError: The bucket is missing or cannot be listed.
    """
    wild = WILD.search(pattern)
    if wild is None:
        found = find(pattern)
        if found is not None:
            yield found
        return
    from apache_beam.io.filesystem import FileSystem

    matches = re.compile(FileSystem.translate_pattern(pattern)).match
    yield from (found for found in list_prefix(pattern[: wild.start()]) if matches(found.uri))


def list_prefix(prefix: str) -> Iterator[ObjectInfo]:
    """Find every object whose uri begins with ``prefix``, taken literally.

    Raises:
        OSError: The bucket is missing or cannot be listed.
    """
    bucket, name = split_uri(prefix)
    with plainly(prefix, _NO_BUCKET):
        for blob in client().list_blobs(bucket, prefix=name, fields=_FIELDS, **_patience()):
            yield _info(f"gs://{bucket}/{blob.name}", blob)


def stat(uri: str) -> ObjectInfo:
    """Look one object up; its name is never a pattern.

    Raises:
        OSError: It is missing (``FileNotFoundError``) or cannot be looked up.
    """
    blob = _blob(uri)
    with plainly(uri):
        blob.reload(**_patience())
    return _info(uri, blob)


def find(uri: str) -> ObjectInfo | None:
    """Look one object up; None where there is none.

    Raises:
        OSError: It cannot be looked up.
    """
    try:
        return stat(uri)
    except FileNotFoundError:
        return None


def read(uri: str, generation: int | None, max_bytes: int) -> bytes:
    """Read an object; never asks for more than ``max_bytes`` + 1 bytes.

    An object stored with ``Content-Encoding: gzip`` is given decompressed, as any HTTP client gives it; the
    limit holds for both forms.

    Args:
        uri: Which object.
        generation: Exactly this version; None = the present one.
        max_bytes: The limit.

    Returns:
        All its bytes, or more than ``max_bytes`` of them where there are more.

    Raises:
        OSError: It cannot be read. ``FileNotFoundError`` says what became of a generation.
    """
    blob = _blob(uri, generation)
    data = _download(blob, uri, 0, max_bytes)
    if len(data) > max_bytes:
        return data
    _check_whole(blob, uri, data)
    return _unzipped(uri, data, max_bytes) if blob.content_encoding == "gzip" else data


def open_object(uri: str, generation: int | None = None) -> BinaryIO:
    """Open an object for reading, with seeking: one version of it, however long that takes.

    Up to 4 MiB cost one request. ``Content-Encoding: gzip`` is undone.

    Raises:
        OSError: It cannot be read; while reading, too.
    """
    blob = _blob(uri, generation)
    head = _download(blob, uri, 0, _HEAD_BYTES - 1)
    file: Any
    if len(head) < _HEAD_BYTES:
        _check_whole(blob, uri, head)
        file = io.BytesIO(head)
    else:
        # The answer told which one it is of; that one is read on.
        generation = int(blob.generation)
        file = io.BufferedReader(_Ranges(uri, generation, _size(uri, generation)), _BUFFER_BYTES)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file) if blob.content_encoding == "gzip" else file)


def put(uri: str, data: bytes) -> None:
    """Write a whole object; readers see the old one or the new one, never a part.

    The upload names the generation that it replaces (0 = none). So it can be repeated when an answer was
    lost, and an upload that was overtaken while it hung in the network fails instead of undoing what came
    after it. Then we look again: what holds these very bytes already is our own write, or its equal, and
    anything else is replaced. The last writer wins: files are named from the keys of their rows, so all who
    write this name have rows of the same keys, and none of them is worth more.

    Raises:
        OSError: It cannot be written, or others replaced it again and again.
    """
    for trial in range(_PUT_TRIES):
        present = _present(uri)
        if trial and present is not None and _holds(present, data):
            return
        blob = _blob(uri)
        try:
            with plainly(uri, _NO_BUCKET):
                blob.upload_from_string(
                    data,
                    content_type="application/octet-stream",
                    if_generation_match=int(present.generation) if present is not None else 0,
                    checksum="crc32c",
                    **_patience(),
                )
            return
        except FileExistsError:
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, 0.05 * 2**trial)))
    raise OSError(errno.EAGAIN, f"replaced by others {_PUT_TRIES} times while it was written", uri)


def delete(uri: str) -> None:
    """Delete the object that is there now, if any; what somebody writes meanwhile stays.

    Raises:
        OSError: It cannot be deleted.
    """
    present = find(uri)
    if present is not None:
        delete_generation(uri, present.generation)


def delete_generation(uri: str, generation: int) -> None:
    """Delete an object if it still is this version.

    Raises:
        OSError: It cannot be deleted.
    """
    try:
        with plainly(uri):
            _blob(uri).delete(if_generation_match=generation, **_patience())
    except (FileNotFoundError, FileExistsError):
        # Deleted or replaced since: what was there is gone.
        return


class _Ranges(io.RawIOBase):
    """One generation of an object, read range by range."""

    def __init__(self, uri: str, generation: int, size: int) -> None:
        super().__init__()
        # A blob that was looked up brings a link of its own for its bytes, of which nothing is promised.
        self._blob, self._uri = _blob(uri, generation), uri
        self._size, self._place = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted <= 0:
            return 0
        data = _download(self._blob, self._uri, self._place, self._place + wanted - 1)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def readall(self) -> bytes:
        # The inherited one asks for 8 KiB at a time, a request each.
        data = bytearray(max(self._size - self._place, 0))
        del data[self.readinto(data) :]
        return bytes(data)


def _blob(uri: str, generation: int | None = None) -> Any:
    bucket, name = split_uri(uri)
    if not name:
        raise FileNotFoundError(errno.ENOENT, "a bucket is no object", uri)
    with plainly(uri):
        return client().bucket(bucket).blob(name, generation=generation)


def _size(uri: str, generation: int) -> int:
    blob = _blob(uri, generation)
    with plainly(uri):
        blob.reload(**_patience())
    return int(blob.size)


def _patience() -> dict[str, Any]:
    return {"retry": retrying(), "timeout": REQUEST_S}


def _info(uri: str, blob: Any) -> ObjectInfo:
    return ObjectInfo(uri, int(blob.generation), int(blob.size), blob.time_created)


def _download(blob: Any, uri: str, first: int, last: int) -> bytes:
    """Bytes ``first`` to ``last`` (included), as stored; fewer where the object ends."""
    from google.api_core.exceptions import RequestRangeNotSatisfiable

    generation = blob.generation
    ranged = {"start": first, "end": last, "raw_download": True, "checksum": None}
    try:
        with plainly(uri):
            return cast(bytes, blob.download_as_bytes(**ranged, **_patience()))
    except FileNotFoundError as error:
        raise (error if generation is None else _gone(uri, int(generation))) from error
    except OSError as error:
        if isinstance(error.__cause__, RequestRangeNotSatisfiable):
            # An empty object has no first byte.
            return b""
        raise


def _check_whole(blob: Any, uri: str, data: bytes) -> None:
    """The library checks no ranges; this one is the whole object, whose checksum came with it."""
    if blob.crc32c is None:
        return
    import google_crc32c

    if base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode() != blob.crc32c:
        raise OSError(errno.EIO, "the bytes arrived damaged (checksum)", uri)


def _unzipped(uri: str, data: bytes, max_bytes: int) -> bytes:
    found = b""
    try:
        while data and len(found) <= max_bytes:
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            found += member.decompress(data, max_bytes + 1 - len(found))
            if not member.eof and len(found) <= max_bytes:
                raise zlib.error("it ends in the middle")
            data = member.unused_data
    except zlib.error as error:
        reason = f"stored with Content-Encoding gzip, but it is no whole gzip file ({error})"
        raise OSError(errno.EINVAL, reason, uri) from error
    return found


def _gone(uri: str, generation: int) -> OSError:
    present = find(uri)
    if present is None:
        return FileNotFoundError(errno.ENOENT, f"generation {generation} was deleted", uri)
    if present.generation == generation:
        return OSError(errno.EIO, f"generation {generation} was not found, though it is there", uri)
    reason = f"generation {generation} was superseded by {present.generation}"
    return FileNotFoundError(errno.ENOENT, reason, uri)


def _present(uri: str) -> Any:
    blob = _blob(uri)
    try:
        with plainly(uri):
            blob.reload(**_patience())
    except FileNotFoundError:
        return None
    return blob


def _holds(blob: Any, data: bytes) -> bool:
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return bool(blob.size == len(data) and blob.md5_hash == base64.b64encode(digest).decode())
