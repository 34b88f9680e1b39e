from __future__ import annotations

import pytest

from schemas.annotations import Annotation
from training.score_ranges import rescaled


def test_mos_and_its_std_move_together() -> None:
    found = rescaled(Annotation(image="a", mos=4, mos_std=0.5, context="c"), (1, 5), (0, 10))
    assert (found.mos, found.mos_std) == (pytest.approx(7.5), pytest.approx(1.25))
    assert found.context == "c"
    back = rescaled(found, (0, 10), (1, 5))
    assert (back.mos, back.mos_std) == (pytest.approx(4), pytest.approx(0.5))


def test_what_is_missing_stays_missing() -> None:
    plain = Annotation(image="a", exposure="overexposed")
    assert rescaled(plain, (1, 5), (0, 10)) == plain


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="5–5 is no range"):
        rescaled(Annotation(image="a", mos=4), (5, 5), (0, 10))
