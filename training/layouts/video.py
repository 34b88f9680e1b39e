"""Frames of a video, one a second; needs PyAV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DecodeError
from training.optional_modules import optional_module

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def is_video(path: str) -> bool:
    """Whether a path's ending is a video's."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def upright(pixels: NDArray[np.uint8], rotation_deg: int) -> NDArray[np.uint8]:
    """Turn a stored frame as a player would show it.

    Args:
        pixels: (height, width, 3).
        rotation_deg: Of the header's display matrix, counter-clockwise (a phone held upright: -90).
    """
    return np.ascontiguousarray(np.rot90(pixels, round(rotation_deg / 90)))


def video_frames(file: Path) -> Iterator[NDArray[np.uint8]]:
    """Decode a video's first frame, and then the first at or after every full second.

    Args:
        file: Anything that FFmpeg reads; phones' quarter turns in the header are made.

    Yields:
        RGB, uint8, (height, width, 3), in order of time.

    Raises:
        ConfigurationError: PyAV is not installed.
        DecodeError: The file cannot be read, has no video stream or no frame, or breaks off.
    """
    av = optional_module("av", "av", "reading a video")
    start_s: float | None = None
    due_s = 0.0
    try:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                time_s = frame.time or 0.0
                start_s = time_s if start_s is None else start_s
                if time_s - start_s >= due_s:
                    due_s = math.floor(time_s - start_s) + 1.0
                    yield upright(frame.to_ndarray(format="rgb24"), frame.rotation)
    except (OSError, IndexError, av.error.FFmpegError) as error:
        raise DecodeError(f"the video does not decode: {error}") from error
    if start_s is None:
        raise DecodeError("the video has no frame")
