"""The way into Google Cloud Storage: one client a process, its credentials, and its errors in plain words.

Credentials are the Application Default Credentials: ``GOOGLE_APPLICATION_CREDENTIALS``, what
``gcloud auth application-default login`` left, or the service account of the machine. Where
``STORAGE_EMULATOR_HOST`` is set, that server is asked, without credentials. The library is imported at the
first call.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

RETRY_S = 60.0
"""How long a request is tried again while the store does not answer or answers 429 or 5xx."""

REQUEST_S = (10.0, 30.0)
"""Seconds to connect, and to wait for the next bytes."""

WILD = re.compile(r"[*?\[]")
"""Where a pattern begins."""

_CHECK_S = 4.0
_CHECK_RETRY_S = 2.0
_CONNECTIONS = 128
_PINGS = 2
_PING_S = 1.5
_ASK_AGAIN_S = 10.0
_NEEDED = ("storage.objects.create", "storage.objects.delete")

_CLIENTS: dict[tuple[int, str | None], Any] = {}
_REFUSED: dict[tuple[int, str | None], tuple[float, Exception]] = {}
_LOCK = threading.Lock()


def client() -> Any:
    """Give this process's ``google.cloud.storage.Client``; threads may share it.

    Raises:
        google.auth.exceptions.GoogleAuthError: There are no credentials; said again for ten seconds
            without looking, as many threads ask at once.
    """
    # A forked process must not share connections; tests change the server.
    key = (os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))
    with _LOCK:
        if key not in _CLIENTS:
            asked_at, refused = _REFUSED.get(key, (-_ASK_AGAIN_S, None))
            if refused is not None and monotonic() - asked_at < _ASK_AGAIN_S:
                raise refused.with_traceback(None)
            try:
                _CLIENTS[key] = _connect(emulated=bool(key[1]))
            except Exception as error:
                _REFUSED[key] = (monotonic(), error)
                raise
        return _CLIENTS[key]


def retrying(seconds: float = RETRY_S) -> Any:
    """The library's own rules of what to try again, within a deadline."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(seconds)


def split_uri(uri: str) -> tuple[str, str]:
    """Give bucket and name of ``gs://bucket/name``; the name may be empty.

    Raises:
        OSError: There is no bucket in it, or a pattern for one.
    """
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not bucket or WILD.search(bucket):
        raise OSError(errno.EINVAL, "there is no bucket in this uri (gs://BUCKET/NAME)", uri)
    return bucket, name


@contextmanager
def plainly(uri: str, missing: str = "no such object") -> Iterator[None]:
    """Turn what the library raises into an ``OSError`` whose ``strerror`` a person understands.

    ``errno`` says of which kind: ENOENT missing, EACCES credentials or rights, EEXIST somebody else wrote
    in between (a precondition failed), EINVAL the store refuses the request, ETIMEDOUT or EIO it may work
    later.

    Args:
        uri: What it is about.
        missing: What a 404 means here.
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from google.resumable_media import DataCorruption
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAPICallError, GoogleAuthError, RetryError, RequestException, DataCorruption) as error:
        raise _os_error(uri, error, missing) from error


def bucket_problem(uri: str, *, writing: bool = False) -> str | None:
    """Say in seconds why the bucket of a uri cannot be used; None if it can. Writes nothing.

    Args:
        uri: ``gs://bucket/...``.
        writing: Ask for the right to create and to replace objects, too. A server that cannot tell (an
            emulator) is believed.
    """
    try:
        name, path = split_uri(uri)
        with plainly(uri, missing=f"there is no bucket {name}"):
            bucket = client().bucket(name)
            # Rights may be bound to a part of a bucket: ask for no more than that.
            prefix = path if writing else WILD.split(path)[0].rpartition("/")[0]
            listed = client().list_blobs(
                bucket, max_results=1, prefix=prefix, fields="items(name)", **_hastily()
            )
            next(iter(listed), None)
            return _write_problem(bucket, path) if writing else None
    except OSError as error:
        return error.strerror


def credentials() -> Any:
    """Find the Application Default Credentials, and say within seconds that there are none.

    Without a key or a login, ``google.auth`` asks the metadata server whether this is a machine of
    Google's: three times, 3 s each and with pauses, and once more for every client. Here it is asked twice,
    for 1.5 s each; machines of Google's are known by their firmware, too, should it be slow.
    """
    import google.auth
    from google.auth.transport.requests import Request
    from google.cloud.storage import Client

    found, _ = google.auth.default(scopes=Client.SCOPE, request=_asking_briefly(Request()))
    return found


def _connect(*, emulated: bool) -> Any:
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    # Otherwise the library reads every bucket's own metadata, in threads of its own, for traces.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    made = storage.Client(project=None, credentials=None if emulated else credentials())
    session = made._http
    if not session.is_mtls:
        # Ten connections is the default: more threads would open and drop one for every image.
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return made


def _write_problem(bucket: Any, path: str) -> str | None:
    from google.api_core.exceptions import MethodNotImplemented, NotFound

    try:
        granted = bucket.test_iam_permissions(_NEEDED, **_hastily())
    except (NotFound, MethodNotImplemented):
        return None
    if not granted:
        # Rights on a part of the bucket do not show here; whether an upload may begin there does. It never
        # gets any bytes, so nothing comes of it.
        bucket.blob(f"{path.rstrip('/')}/_").create_resumable_upload_session(**_hastily())
        return None
    lacking = sorted(set(_NEEDED) - set(granted))
    return f"these credentials lack {' and '.join(lacking)} in bucket {bucket.name}" if lacking else None


def _hastily() -> dict[str, Any]:
    return {"retry": retrying(_CHECK_RETRY_S), "timeout": _CHECK_S}


def _asking_briefly(request: Callable[..., Any]) -> Callable[..., Any]:
    from google.auth.exceptions import TransportError

    def ask(url: str, **known: Any) -> Any:
        if urlsplit(url).path.strip("/"):
            return request(url=url, **known)
        for _ in range(_PINGS):
            try:
                return request(url=url, **known | {"timeout": _PING_S})
            except TransportError:
                continue
        # An answer, though not Google's: an error would be met with patience.
        return SimpleNamespace(status=503, headers={}, data=b"")

    return ask


def _os_error(uri: str, error: Exception, missing: str) -> OSError:
    from google.api_core.exceptions import RetryError
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

    if isinstance(error, RetryError) and error.cause is not None:
        error = error.cause
    if isinstance(error, DefaultCredentialsError):
        return PermissionError(errno.EACCES, _no_credentials(error), uri)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        again = "run `gcloud auth application-default login` again"
        return PermissionError(errno.EACCES, f"the Google credentials are refused ({error}); {again}", uri)
    # What the library gave up to try again carries no code of its own.
    response = getattr(error, "response", None)
    code = getattr(error, "code", None) or getattr(response, "status_code", None)
    if code is None:
        return OSError(errno.ETIMEDOUT, f"Google Cloud Storage cannot be reached ({_inner(error)})", uri)
    if code == 404:
        return FileNotFoundError(errno.ENOENT, f"{missing} (404)", uri)
    if code in (401, 403):
        return PermissionError(errno.EACCES, f"access denied ({code}): {_answer(response)}", uri)
    if code == 412:
        return FileExistsError(errno.EEXIST, "written by somebody else at the same time (412)", uri)
    if code in (408, 429) or code >= 500:
        return OSError(errno.EIO, f"Google Cloud Storage answers {code}: {_answer(response)}", uri)
    return OSError(errno.EINVAL, f"Google Cloud Storage refuses ({code}): {_answer(response)}", uri)


def _inner(error: Any) -> Any:
    """What was wrong with the connection, out of what it was wrapped in on its way up."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return getattr(error, "reason", error)


def _no_credentials(error: Exception) -> str:
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if given:
        return f"GOOGLE_APPLICATION_CREDENTIALS={given} cannot be used: {error}"
    return (
        "there are no Google credentials: run `gcloud auth application-default login`, or set "
        "GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account"
    )


def _answer(response: Any) -> str:
    """What the server said, at most a sentence or two."""
    try:
        said = response.json()["error"]["message"]
    except (AttributeError, KeyError, TypeError, ValueError):
        said = getattr(response, "text", "")
    return " ".join(str(said).split())[:300]
