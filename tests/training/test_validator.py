from __future__ import annotations

import numpy as np
import pytest

from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from training.validator import mean_srcc, rankable_labels


def _labels(**columns: list) -> list[Annotation]:
    count = len(next(iter(columns.values())))
    return [
        Annotation(image=f"{row}.png", **{name: values[row] for name, values in columns.items()})
        for row in range(count)
    ]


def test_where_a_score_is_asked_for_it_alone_is_compared() -> None:
    labels = _labels(mos=[1.0, None, 3.0, 2.0], composition=[1, 2, 3, 4])
    found = rankable_labels(labels, ["composition", "score"])
    assert list(found) == ["score"]
    assert np.array_equal(found["score"], [1.0, np.nan, 3.0, 2.0], equal_nan=True)


def test_else_the_codes_of_all_attributes_that_are_asked_for_and_can_be_ranked() -> None:
    labels = _labels(
        mos=[1.0, 2.0, 3.0, 4.0],
        composition=[1, 2, 3, 4],
        eye_catching=[5, 5, 5, 5],
        image_clarity=["blurry", None, None, "clear"],
        exposure=["overexposed", "underexposed", "properly exposed", "overexposed"],
        level_shot=[None] * 4,
    )
    asked = ["composition", "eye_catching", "image_clarity", "exposure", "level_shot"]
    found = rankable_labels(labels, asked)
    assert list(found) == ["composition", "exposure"]
    assert found["composition"].tolist() == [1, 2, 3, 4]
    assert found["exposure"][0] == found["exposure"][1] < found["exposure"][2]


@pytest.mark.parametrize("mos", [[1.0, 2.0, None], [3.0, 3.0, 3.0]])
def test_labels_that_cannot_be_ranked_are_refused(mos) -> None:
    with pytest.raises(ConfigurationError, match="not 3 of them with different mos"):
        rankable_labels(_labels(mos=mos), ["score"])


def test_the_mean_is_over_targets_each_on_its_labelled_images_and_a_constant_ranks_nothing() -> None:
    true = {"a": np.array([1.0, 2.0, 3.0, np.nan]), "b": np.array([1.0, 2.0, 3.0, 4.0])}
    predicted = {"a": np.array([0.3, 0.2, 0.1, 9.0]), "b": np.array([5.0, 6.0, 8.0, 7.0])}
    assert mean_srcc(predicted, true) == pytest.approx((-1.0 + 0.8) / 2)
    assert mean_srcc(predicted | {"b": np.full(4, 2.0)}, true) == pytest.approx(-0.5)
