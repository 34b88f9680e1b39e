from __future__ import annotations

import io
import sys

import pytest
from PIL import Image
from skimage import data

from training.demo.degradations import defocus
from training.demo.judges import load_brisque


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("missing", ["brisque", "brisque.brisque"])
def test_where_a_package_is_missing_there_is_no_judge(missing: str, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "brisque"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert load_brisque() is None


def test_brisque_gives_a_blurred_photograph_the_higher_number() -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("libsvm")
    judge = load_brisque()
    assert judge is not None
    # A photograph: BRISQUE's statistics are those of natural scenes.
    sharp = Image.fromarray(data.chelsea())
    clear, blurred, again = judge([_png(sharp), _png(defocus(sharp, 3.0)), _png(sharp)])
    assert clear is not None
    assert blurred is not None
    assert clear + 20 < blurred
    assert clear == again


def test_brisque_says_nothing_of_a_flat_picture() -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("libsvm")
    judge = load_brisque()
    assert judge is not None
    assert judge([_png(Image.new("RGB", (80, 60), "grey"))]) == [None]
