from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DecodeError
from training.layouts.video import is_video, upright, video_frames


class _NoVideoError(Exception):
    pass


class _Container:
    """As much of PyAV's as is used: frames at given times, and maybe a broken end."""

    def __init__(self, times: list[float], *, breaks: bool = False) -> None:
        self._times, self._breaks = times, breaks

    def __enter__(self) -> _Container:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def decode(self, *, video: int) -> Iterator[SimpleNamespace]:
        assert video == 0
        for time in self._times:
            pixels = np.full((2, 3, 3), round(time * 10) % 256, np.uint8)
            yield SimpleNamespace(time=time, rotation=0, to_ndarray=lambda format, pixels=pixels: pixels)
        if self._breaks:
            raise _NoVideoError("broken end")


def frames(monkeypatch: pytest.MonkeyPatch, container: _Container) -> list[int]:
    fake = SimpleNamespace(open=lambda _: container, error=SimpleNamespace(FFmpegError=_NoVideoError))
    monkeypatch.setitem(sys.modules, "av", fake)  # type: ignore[arg-type]
    return [int(pixels[0, 0, 0]) for pixels in video_frames(Path("a.mp4"))]


def test_one_frame_a_second_from_the_first_frame_on(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [0.5 + number / 4 for number in range(12)]  # 0.5 … 3.25 s
    assert frames(monkeypatch, _Container(times)) == [5, 15, 25]


@pytest.mark.parametrize(
    ("rotation", "corner"), [(0, (0, 0)), (-90, (0, 2)), (90, (2, 0)), (180, (2, 2)), (-180, (2, 2))]
)
def test_a_phones_turned_video_is_turned_upright(rotation: int, corner: tuple[int, int]) -> None:
    stored = np.zeros((3, 3, 3), np.uint8)
    stored[0, 0] = 255
    assert upright(stored, rotation)[corner].tolist() == [255, 255, 255]


def test_after_a_gap_no_second_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert frames(monkeypatch, _Container([0, 2.5, 2.6, 3.1])) == [0, 25, 31]


def test_a_video_that_breaks_off_or_is_empty_does_not_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecodeError, match="broken end"):
        frames(monkeypatch, _Container([0.0], breaks=True))
    with pytest.raises(DecodeError, match="no frame"):
        frames(monkeypatch, _Container([]))


def test_without_pyav_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigurationError, match="pip install av"):
        next(video_frames(Path("a.mp4")))


def test_a_video_is_known_by_its_ending() -> None:
    assert is_video("x/A.MP4")
    assert not is_video("x/mp4.jpg")


def test_pyav_reads_a_real_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = list(video_frames(tmp_path / "a.mp4"))
    assert [pixels.shape for pixels in found] == [(48, 64, 3)] * 3
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError):
        list(video_frames(tmp_path / "b.mp4"))
