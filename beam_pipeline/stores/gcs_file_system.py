"""Google Cloud Storage as DuckDB takes it: a file system of fsspec over ``beam_pipeline.stores.gcs``.

Same credentials, errors and patterns as the rest. A listing costs one request for 1,000 files; a file up to
4 MiB one each time that DuckDB opens it (three times a question). gcsfs would ask 15 times for every file,
and by default first waits a minute for a service that emulators do not have.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from beam_pipeline.stores import gcs


class GcsFileSystem(AbstractFileSystem):
    """Reads ``gs://``; DuckDB asks for no more. Made anew for every question.

    DuckDB opens a file several times and looks up its size beside. What the first look gave is kept: the
    same version is read each time, and one replaced meanwhile is an error that says so, not a mixture.
    """

    protocol = "gs"
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, gcs.ObjectInfo] = {}

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> list[str]:
        """Names of the objects that match, without the scheme, as everywhere in fsspec."""
        found = list(gcs.list_objects(_uri(path)))
        self._known |= {info.uri: info for info in found}
        return [info.uri.removeprefix("gs://") for info in found]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """What fsspec wants to know about one object. Raises ``FileNotFoundError``."""
        found = self._look_up(path)
        return {
            "name": found.uri.removeprefix("gs://"),
            "size": found.size_bytes,
            "type": "file",
            "created": found.created,
        }

    def modified(self, path: str) -> Any:
        """When the object was last changed, UTC."""
        return self._look_up(path).created

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> BinaryIO:
        return gcs.open_object(_uri(path), self._look_up(path).generation)

    def _look_up(self, path: str) -> gcs.ObjectInfo:
        uri = _uri(path)
        if uri not in self._known:
            self._known[uri] = gcs.stat(uri)
        return self._known[uri]


def _uri(path: str) -> str:
    return path if path.startswith("gs://") else f"gs://{path}"
