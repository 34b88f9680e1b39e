"""Which images there are: paths, patterns and directories to refs. Pure functions over a file system.

The rule for a name: an existing path is taken at its word, whatever its name; anything else is a pattern.
What a directory walk or a pattern finds is filtered by name (``beam_pipeline.sources.image_names``).

Object stores have no folders: a uri that ends in a slash, or names a prefix of objects, is walked as one; a
pattern matches names of objects, in Beam's language, where ``**/`` asks for at least one folder.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from beam_pipeline.sources.image_names import is_offered, is_shown
from beam_pipeline.stores import gcs
from beam_pipeline.stores.gcs_access import WILD
from beam_pipeline.stores.storage import is_gs, is_remote, local_path
from schemas.records import ImageRef, ListingProblem

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def locate(pattern: str) -> Iterator[ImageRef]:
    """Find what one ``--input`` names.

    Args:
        pattern: A path, a pattern (``*``, ``?``, ``[...]``, ``**``), or a directory; local or remote.

    Yields:
        Refs that know their uri only (``describe`` adds the rest), or that carry a listing problem. Those of
        ``gs://`` are described already: their listing said everything.

    Raises:
        OSError: An object store refuses.
    """
    if is_gs(pattern):
        yield from _locate_objects(pattern)
        return
    if is_remote(pattern):
        yield from _locate_remote(pattern)
        return
    path = str(PurePosixPath(local_path(pattern)))
    if os.path.lexists(path):
        yield from _locate_path(path)
        return
    # One set of folders for all matches, as a matching folder may lie in another one.
    seen: set[tuple[int, int]] = set()
    for match in sorted(glob.iglob(path, recursive=True)):
        if os.path.isdir(match):
            # A final "**" matches the folders, and by itself all that is in them.
            if not path.endswith("**"):
                yield from _walk(match, seen)
        elif is_offered(os.path.basename(match)):
            yield _named(match)


def anything_matches(pattern: str) -> bool:
    """Say whether an ``--input`` finds anything at all; stops at the first."""
    return next(iter(locate(pattern)), None) is not None


def describe(ref: ImageRef, started_at: datetime) -> ImageRef:
    """Add version, size and time from the file's metadata; a file without them gets a listing problem.

    Args:
        ref: As located, or as the manifest table spells it; times that the table gave are kept.
        started_at: When the run started: the event time of an image that has none.
    """
    if ref.problem is None and not is_remote(ref.image_uri):
        ref = _describe_local(ref)
    elif ref.problem is None and is_gs(ref.image_uri):
        ref = _describe_object(ref) if ref.image_generation is None else ref
    elif ref.problem is None and ref.size_bytes is None:
        ref = _describe_remote(ref)
    return ref if ref.event_time is not None else replace(ref, event_time=started_at)


def _locate_path(path: str) -> Iterator[ImageRef]:
    if os.path.isdir(path):
        yield from _walk(path, set())
    else:
        yield _named(path)


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[ImageRef]:
    try:
        info = os.stat(folder)
        with os.scandir(folder) as entries:
            names, folders = _shown(entries)
    except OSError as error:
        yield _troubled(folder, f"the folder cannot be listed: {error.strerror}")
        return
    # Linked folders are followed; the same folder reached twice (a loop) is walked once.
    if (info.st_dev, info.st_ino) in seen:
        return
    seen.add((info.st_dev, info.st_ino))
    for name in sorted(names):
        if name in folders:
            yield from _walk(os.path.join(folder, name), seen)
        elif is_offered(name):
            yield _named(os.path.join(folder, name))


def _shown(entries: Iterable[os.DirEntry[str]]) -> tuple[list[str], set[str]]:
    """Names that are not hidden, and those of them that are folders."""
    names: list[str] = []
    folders: set[str] = set()
    # No entry is kept: each takes four times the room of its name, and a folder may hold millions.
    for entry in entries:
        if not entry.name.startswith("."):
            names.append(entry.name)
            if _is_folder(entry):
                folders.add(entry.name)
    return names, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that loops onto itself: offered as a file, and refused with its reason when described.
        return False


def _named(path: str) -> ImageRef:
    try:
        path.encode()
    except UnicodeEncodeError:
        return _troubled(path, "the file name is not valid UTF-8, so no row could name it")
    return ImageRef(image_uri=path)


def _troubled(path: str, message: str) -> ImageRef:
    uri = os.fsencode(path).decode(errors="backslashreplace")
    return ImageRef(image_uri=uri, event_time=_link_time(path), problem=_problem(message))


def _problem(message: str) -> ListingProblem:
    return ListingProblem(stage="list", error_type="ListingError", message=message)


def _link_time(path: str) -> datetime | None:
    # A dangling link has a time of its own. Using it keeps a second run in the same partition.
    try:
        return _utc(os.lstat(path).st_mtime_ns)
    except OSError:
        return None


def _utc(time_ns: int) -> datetime | None:
    # Whole microseconds, the precision of the tables; floats would round differently by platform.
    try:
        return _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:  # a file system may hold any number; years end with 9999 here
        return None


def _describe_local(ref: ImageRef) -> ImageRef:
    path = local_path(ref.image_uri)
    try:
        info = os.stat(path)
    except OSError as error:
        reason = "dangling symbolic link" if os.path.islink(path) else "no such image"
        if not isinstance(error, FileNotFoundError):
            reason = f"cannot be looked up: {error.strerror}"
        return replace(ref, event_time=ref.event_time or _link_time(path), problem=_problem(reason))
    except ValueError as error:  # an embedded null byte
        return replace(ref, problem=_problem(f"not a path: {error}"))
    event_time = ref.event_time or _utc(info.st_mtime_ns)
    if not stat.S_ISREG(info.st_mode):
        return replace(ref, event_time=event_time, problem=_problem("not a regular file"))
    return replace(ref, event_time=event_time, image_generation=info.st_mtime_ns, size_bytes=info.st_size)


def _locate_objects(pattern: str) -> Iterator[ImageRef]:
    named = None if pattern.endswith("/") else gcs.find(pattern)
    if named is not None:
        yield _of_object(named)
        return
    literal = WILD.split(pattern, maxsplit=1)[0]
    if literal == pattern:
        folder = pattern if pattern.endswith("/") else pattern + "/"
        found = gcs.list_prefix(folder)
    else:
        folder, found = literal.rpartition("/")[0] + "/", gcs.list_objects(pattern)
    for info in found:
        if is_shown(info.uri[len(folder) :], pattern[len(folder) :]):
            yield _of_object(info)


def _of_object(info: gcs.ObjectInfo) -> ImageRef:
    return ImageRef(
        image_uri=info.uri,
        image_generation=info.generation,
        event_time=info.created,
        size_bytes=info.size_bytes,
    )


def _describe_object(ref: ImageRef) -> ImageRef:
    try:
        info = gcs.stat(ref.image_uri)
    except OSError as error:
        return replace(ref, problem=_problem(f"cannot be looked up: {error.strerror}"))
    described = _of_object(info)
    return replace(
        ref,
        image_generation=described.image_generation,
        size_bytes=described.size_bytes,
        event_time=ref.event_time or described.event_time,
    )


def _locate_remote(pattern: str) -> Iterator[ImageRef]:
    from apache_beam.io.filesystems import FileSystems

    named = not pattern.endswith("/") and FileSystems.exists(pattern)
    (result,) = FileSystems.match([pattern + "**" if pattern.endswith("/") else pattern])
    folder = WILD.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    for metadata in result.metadata_list:
        found, asked = metadata.path.removeprefix(folder), pattern.removeprefix(folder)
        if metadata.path == pattern if named else is_shown(found, asked):
            yield ImageRef(
                image_uri=metadata.path,
                event_time=_updated(metadata.last_updated_in_seconds),
                size_bytes=metadata.size_in_bytes,
            )


def _describe_remote(ref: ImageRef) -> ImageRef:
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    try:
        # Not match(): a uri of a table is never a pattern.
        metadata = FileSystems.get_filesystem(ref.image_uri).metadata(ref.image_uri)
    except (BeamIOError, OSError, ValueError) as error:
        return replace(ref, problem=_problem(f"cannot be looked up: {error}"))
    updated = _updated(metadata.last_updated_in_seconds)
    return replace(ref, event_time=ref.event_time or updated, size_bytes=metadata.size_in_bytes)


def _updated(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
