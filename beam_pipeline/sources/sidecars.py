"""Context from a file beside the image: what the uploader said about ``photo.jpg``, in ``photo.json``.

    photo.json          {"title": "Sunset", "category": "landscape", "tags": ["sea", "evening"]}
    photo.jpg's context title: Sunset; category: landscape; tags: sea, evening

Looked for are ``photo.json`` and ``photo.jpg.json``, in this order; the first that exists counts. The two
names cost one request each where they are missing. A sidecar that is there but cannot be understood fails
its image: scored without its context it would get another score, and nobody would know.
"""

from __future__ import annotations

import errno
import json
import posixpath
from collections.abc import Iterator
from typing import Any, NoReturn

from beam_pipeline.stores.storage import is_gs, is_remote, open_binary
from schemas.errors import SidecarError

MOST_BYTES = 64 * 1024
"""A larger sidecar is refused."""


class _Number(str):
    """A number, spelled as in the file."""


_NEVER_THERE = (errno.ENOENT, errno.ENAMETOOLONG)
_ONLY_NOW = (errno.EIO, errno.ETIMEDOUT, None)


def sidecar_context(image_uri: str) -> str | None:
    """Read the context of an image from beside it.

    Args:
        image_uri: Local path or uri of an object store.

    Returns:
        The context; None where there is no sidecar, or none that says anything.

    Raises:
        SidecarError: It cannot be read, or is no JSON object in UTF-8 of at most ``MOST_BYTES``.
    """
    for uri in sidecar_uris(image_uri):
        data = _content(uri)
        if data is not None:
            try:
                return context_text(data)
            except (ValueError, RecursionError) as error:
                raise SidecarError(f"the sidecar {_name(uri)} {_reason(error)}") from error
    return None


def sidecar_uris(image_uri: str) -> list[str]:
    """Where the sidecar of an image may be: ``photo.json``, then ``photo.jpg.json``; each name once."""
    stem, _ = posixpath.splitext(image_uri)
    return list(dict.fromkeys((f"{stem}.json", f"{image_uri}.json")))


def context_text(data: bytes) -> str | None:
    """Turn a sidecar's content into a context.

    A text under the key ``context`` is the context. Otherwise all that is text, number, boolean or a list
    of these, as ``key: value`` in the order of the file, lists joined by commas; numbers and booleans as
    they are written there. Nested objects and nulls are left out, and so is what is empty.

    Returns:
        The text; None where nothing is left.

    Raises:
        ValueError: No JSON object in UTF-8, too large, or text that is no valid Unicode.
        RecursionError: Nested too deeply.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES:,} bytes")
    found = json.loads(
        data.decode("utf-8-sig"), parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant
    )
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    given = found.get("context")
    if not isinstance(given, str) or isinstance(given, _Number):
        given = "; ".join(_pairs(found))
    given.encode()  # JSON can spell half a character, which no row can hold
    return given if given.strip() else None


def _pairs(found: dict[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list)) for item in values):
            continue
        words = [word for word in map(_word, values) if word.strip()]
        if words:
            yield f"{key}: {', '.join(words)}"


def _word(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"is no JSON ({name} is no number)")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "spells half a character (a lone surrogate)"
    if isinstance(error, json.JSONDecodeError):
        return f"is no JSON ({error})"
    return "is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _content(uri: str) -> bytes | None:
    """Its bytes, one more than allowed at most; None where there is no such file."""
    try:
        with open_binary(uri) as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        if _is_missing(uri, error):
            return None
        reason = error.strerror or str(error)
        raise SidecarError(
            f"the sidecar {_name(uri)} cannot be read: {reason}", retryable=error.errno in _ONLY_NOW
        ) from error


def _is_missing(uri: str, error: OSError) -> bool:
    if error.errno is None and is_remote(uri) and not is_gs(uri):
        # Beam's file systems do not say what went wrong.
        from apache_beam.io.filesystems import FileSystems

        return not FileSystems.exists(uri)
    return error.errno in _NEVER_THERE


def _name(uri: str) -> str:
    return posixpath.basename(uri)
