"""What a data set's image files hold, by serving's own path: decodable, which bytes, which picture."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.images import decode_image, image_id, inspect_image
from schemas.errors import DecodeError, ScoringError
from schemas.manifest import ImageRule
from training.layouts.video import is_video, video_frames
from training.near_duplicates import perceptual_hash

_RULE = ImageRule(min_pixels=64 * 28 * 28, max_pixels=256 * 28 * 28)
"""Any budget decodes the same bytes; a small one is quick."""

_IN_FLIGHT = 4  # files a thread: enough that none waits, few enough that memory stays flat


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file holds.

    Attributes:
        content: First 16 bytes of the sha256; None where the file cannot be read.
        picture: Perceptual hash; None where it was not decoded or has no structure.
        problem: Why serving would refuse it; None where it would not.
    """

    content: bytes | None = None
    picture: int | None = None
    problem: str | None = None


def check_files(files: Iterable[Path], *, decode: bool, threads: int | None = None) -> Iterator[FileFacts]:
    """Check files by threads, in order, a few at a time.

    Args:
        files: Images, or videos by their ending: of those, the first frame.
        decode: False: headers and hashes only; of videos the hash only.
        threads: Default: as many as there are processors.

    Raises:
        ConfigurationError: A video is to be decoded and PyAV is not installed.
    """
    threads = threads or os.cpu_count() or 1
    left = iter(files)
    with ThreadPoolExecutor(threads) as pool:

        def start(count: int) -> list[Future[FileFacts]]:
            return [pool.submit(check_file, file, decode=decode) for file in islice(left, count)]

        waiting = deque(start(threads * _IN_FLIGHT))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(start(1))


def check_file(file: Path, *, decode: bool) -> FileFacts:
    """Check one file; see ``check_files``."""
    if not file.is_file():
        return FileFacts(problem="there is no such file")
    try:
        data = file.read_bytes()
    except OSError as error:
        return FileFacts(problem=f"cannot be read: {error.strerror or error}")
    content = bytes.fromhex(image_id(data))[:16]
    try:
        pixels = _first_frame(file, decode) if is_video(file.name) else _image(data, decode)
    except ScoringError as error:
        return FileFacts(content, problem=str(error))
    return FileFacts(content, None if pixels is None else perceptual_hash(pixels))


def _image(data: bytes, decode: bool) -> NDArray[np.uint8] | None:
    facts = inspect_image(data)
    return decode_image(data, facts, _RULE) if decode else None


def _first_frame(file: Path, decode: bool) -> NDArray[np.uint8] | None:
    if not decode:
        return None
    for pixels in video_frames(file):
        return pixels
    raise DecodeError("the video has no frame")
