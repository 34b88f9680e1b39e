from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import ConfigurationError
from tests.benchmarks.pictures import jpegs, mirrored, read_photographs, size_of, write_files


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 9), (2, 3), (20, 3), (1, 40)])
def test_a_picture_is_cut_or_mirrored_never_resampled(height: int, width: int) -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    found = mirrored(picture, height, width)
    assert found.shape == (height, width, 3)
    # Neighbours in the result are neighbours in the picture, or the same pixel at a mirrored edge.
    steps = np.abs(np.diff(found[:, :, 0].astype(int), axis=1))
    assert set(np.unique(steps)) <= {0, 3}


def test_nothing_changes_at_the_picture_s_own_size() -> None:
    picture = read_photographs(None, 1)[0]
    assert np.array_equal(mirrored(picture, *picture.shape[:2]), picture)


def test_jpegs_have_the_size_asked_for() -> None:
    height, width = size_of(2.0, 3 / 4)
    assert height * width == pytest.approx(2e6, rel=0.001)
    assert height / width == pytest.approx(3 / 4, rel=0.001)
    (data,) = jpegs(read_photographs(None, 1), 90, 120)
    assert Image.open(io.BytesIO(data)).size == (120, 90)


def test_more_files_than_pictures_are_hard_links(tmp_path: Path) -> None:
    paths = write_files(tmp_path, [b"one", b"two"], 5)
    assert [path.read_bytes() for path in paths] == [b"one", b"two", b"one", b"two", b"one"]
    assert paths[0].stat().st_nlink == 3


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no files in"):
        read_photographs(tmp_path, 3)
