"""Decoders that may crash, in a process of their own: there a crash costs one picture, not the worker.

    reader = PictureReader(CRASH_PRONE)
    facts  = reader.inspect_image(data, limits)       # as model.images, with the same errors
    pixels = reader.decode_image(data, facts, rule)   # and the same pixels

JPEG, PNG and WebP, nearly all that people upload, are read by libraries that the whole web tests every
day, and stay in this process. The others go through a helper: this same module (``serve``), started
at the first picture that needs it. It reads one picture at a time, in bounded time and, on Linux,
memory; one that died is replaced at the next picture. POSIX only.

Both sides speak in frames: two lengths, a JSON header, bytes. No pickles: whatever a picture does to the
helper, this process reads numbers and text.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.image_files import format_by_magic
from model.images import ImageLimits, decode_image, inspect_image
from model.resizing import RESIZES
from schemas.errors import DecodeError, ImageLimitError, ScoringError
from schemas.manifest import ImageRule
from schemas.records import ImageFacts

CRASH_PRONE = frozenset(("GIF", "BMP", "TIFF"))
"""Formats whose readers see few strangers' files, and have crashed on some."""

DECODE_SECONDS = 60.0
"""A picture that takes the helper longer is given up."""

_PROGRAM = "from model.isolated_decoding import serve; serve()"
_ROOT = Path(__file__).resolve().parents[1]
_LENGTHS = struct.Struct(">IQ")
_PATIENCE_S = 1.0
_ERRORS: dict[str, type[ScoringError]] = {kind.__name__: kind for kind in (DecodeError, ImageLimitError)}

# Measured: decoding takes at most 24 bytes a pixel (float TIFF). But a TIFF whose header promises 100 × 100
# px may come in one tile of 2 GB; that is refused here.
_BYTES_A_PIXEL = 64
_SPARE_BYTES = 256 * 1024 * 1024


class PictureReader:
    """``inspect_image`` and ``decode_image``, for some formats in a helper process. Thread-safe.

    The helper ends with this object, and with this process, however that ends.

    Args:
        isolated: Formats for the helper, as ``image_format`` names them.
        seconds: Most time for one picture there.
        program: What the helper runs, in Python; ends in ``serve()``.
    """

    def __init__(
        self, isolated: Collection[str] = (), *, seconds: float = DECODE_SECONDS, program: str = _PROGRAM
    ) -> None:
        self._isolated = frozenset(isolated)
        self._seconds = seconds
        self._program = program
        self._helper: _Helper | None = None
        self._lock = threading.Lock()

    def inspect_image(self, data: bytes, limits: ImageLimits) -> ImageFacts:
        """Read the header only, as ``model.images.inspect_image``.

        Raises:
            DecodeError: As there; or the helper crashed or took too long.
        """
        if format_by_magic(data) not in self._isolated:
            return inspect_image(data, limits)
        facts, _ = self._ask({"limits": asdict(limits)}, data)
        return ImageFacts(**facts)

    def decode_image(self, data: bytes, facts: ImageFacts, rule: ImageRule) -> NDArray[np.uint8]:
        """Decode to what the model sees, as ``model.images.decode_image``.

        Raises:
            DecodeError: As there; or the helper crashed or took too long.
        """
        if format_by_magic(data) not in self._isolated:
            return decode_image(data, facts, rule)
        answer, pixels = self._ask({"facts": asdict(facts), "rule": rule.model_dump(mode="json")}, data)
        return np.frombuffer(pixels, np.uint8).reshape(answer["shape"]).copy()

    def _ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            helper = self._running_helper()
            try:
                answer, body = helper.ask(request | {"seconds": self._seconds}, data)
            except (OSError, EOFError, ValueError) as error:
                self._helper = None
                raise _obituary(helper.end(), self._seconds) from error
            except BaseException:  # interrupted between two halves of a frame
                self._helper = None
                helper.end()
                raise
        if "error" in answer:
            _raise_told(**answer)
        return answer, body

    def _running_helper(self) -> _Helper:
        # One that died while it had nothing to do was killed from outside: no picture is to blame.
        if self._helper is None or not self._helper.is_alive():
            try:
                self._helper = _Helper(self._program)
            except (OSError, EOFError) as error:
                raise DecodeError("the decoder process does not start", retryable=True) from error
        return self._helper


class _Helper:
    """The running process, as its parent sees it."""

    def __init__(self, program: str) -> None:
        # Our root comes first and the working directory not at all: a user's own model/ is not ours.
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        self._ended = weakref.finalize(self, _end, self._process)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            _read_frame(self._answers)  # it is ready
        except BaseException:
            self.end()
            raise

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> int:
        """Give its exit status."""
        self._ended()
        return self._process.wait()

    def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        _write_frame(self._requests, request, data)
        return _read_frame(self._answers)


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # flushing what nobody will read
            pipe.close()  # type: ignore[union-attr]
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _obituary(status: int, seconds: float) -> DecodeError:
    if status == -signal.SIGALRM:
        return DecodeError(f"decoding took longer than {seconds:g} s", retryable=True)
    # Killed from outside, most often for the machine's memory: that is not the picture's doing alone.
    killed = status == -signal.SIGKILL
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return DecodeError(f"the decoder crashed ({how})", retryable=killed)


def _raise_told(error: str, message: str, retryable: bool) -> NoReturn:
    if error not in _ERRORS:
        raise RuntimeError(f"{error}: {message}")
    raise _ERRORS[error](message, retryable=retryable)


def serve() -> None:
    """Answer requests on standard input until it ends: the helper's whole life."""
    requests, answers = _private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes our input
    # The alarm ends this process even inside a decoder, and also where the parent is gone; a parent may
    # have passed on that it is ignored or blocked.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with suppress(EOFError, BrokenPipeError):
        _write_frame(answers, {}, b"")
        while True:
            request, data = _read_frame(requests)
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
            answer, body = _answer(request, data)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write_frame(answers, answer, body)


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    # What a library prints must not get between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def _answer(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        if "limits" in request:
            with _bounded_memory(_SPARE_BYTES):
                return asdict(inspect_image(data, ImageLimits(**request["limits"]))), b""
        facts, rule = ImageFacts(**request["facts"]), ImageRule.model_validate(request["rule"])
        size = (facts.width_px or 0) * (facts.height_px or 0)
        RESIZES[rule.image_decoder](
            Image.new("RGB", (28, 28)), (28, 28), None
        )  # what it loads is no picture's
        with _bounded_memory(size * _BYTES_A_PIXEL + _SPARE_BYTES):
            pixels = decode_image(data, facts, rule)
        return {"shape": pixels.shape}, pixels.tobytes()
    except Exception as error:  # told to the parent, which raises it there
        retryable = isinstance(error, ScoringError) and error.retryable
        return {"error": type(error).__name__, "message": str(error), "retryable": retryable}, b""


@contextmanager
def _bounded_memory(more: int) -> Iterator[None]:
    """Let this process take so many bytes more than it has; only Linux tells how many those are."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + more
    known = [limit for limit in (soft, wanted) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _write_frame(file: IO[bytes], header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    file.write(_LENGTHS.pack(len(text), len(body)))
    file.write(text)
    file.write(body)
    file.flush()


def _read_frame(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    text, body = _LENGTHS.unpack(_read(file, _LENGTHS.size))
    return json.loads(_read(file, text)), _read(file, body)


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
