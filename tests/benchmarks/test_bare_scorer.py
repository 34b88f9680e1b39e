from __future__ import annotations

import pytest

from schemas.errors import ConfigurationError
from tests.benchmarks.bare_scorer import between_outcomes, known


def test_images_of_the_first_moment_came_before_it() -> None:
    assert between_outcomes([10.0, 10.0, 11.0, 12.0, 12.0]) == pytest.approx(3 / 2)


def test_one_moment_has_no_speed() -> None:
    found = between_outcomes([10.0, 10.0])
    assert found is None
    with pytest.raises(ConfigurationError, match="one micro-batch holds all images"):
        known(found)
