from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.records import Prediction
from training.mos_correlation import correlate_with_mos

MOS = [1.0, 2.0, 1.5, 4.5, 3.0, 4.0]
EXPECTED = [1.5, 1.25, 1.75, 2.75, 2.0, 3.0]


def notes() -> list[Annotation]:
    return [Annotation(image=f"{index}.jpg", mos=mos) for index, mos in enumerate(MOS)]


def found(predictions: list[Prediction], labels: list[Annotation] | None = None) -> dict[str, object]:
    pairs = list(zip(predictions, labels or notes(), strict=True))
    results = correlate_with_mos(pairs, VOCABULARY, np.arange(len(pairs)), 3)
    return {one.predicted: one for one in results}


def test_attributes_are_correlated_by_expected_codes_and_the_composite_score_too() -> None:
    said = [
        Prediction(exposure="properly exposed", exposure_expected=code, composite_score=-code)
        for code in EXPECTED
    ]
    results = found(said)
    assert list(results) == ["composite_score", "exposure"]
    assert results["exposure"].srcc.value == pytest.approx(spearmanr(EXPECTED, MOS).statistic)
    assert results["composite_score"].srcc.value == pytest.approx(-spearmanr(EXPECTED, MOS).statistic)
    assert results["exposure"].srcc.low < results["exposure"].srcc.value
    assert (results["exposure"].images, results["exposure"].sources) == (6, 6)


def test_decided_codes_stand_in_where_one_prediction_has_no_expected_code() -> None:
    labels = ["overexposed", "underexposed", "overexposed", *["properly exposed"] * 3]
    said = [Prediction(exposure=label, exposure_expected=9.0 - row) for row, label in enumerate(labels)]
    said[2] = Prediction(exposure=labels[2])
    codes = [1, 1, 1, 3, 3, 3]
    assert found(said)["exposure"].srcc.value == pytest.approx(spearmanr(codes, MOS).statistic)


def test_images_without_mos_are_left_out_and_fewer_than_three_say_nothing() -> None:
    said = [Prediction(composition=5, composition_expected=code) for code in EXPECTED]
    labels = [note if row < 3 else Annotation(image=note.image) for row, note in enumerate(notes())]
    assert found(said, labels)["composition"].images == 3
    labels[0] = Annotation(image="0.jpg")
    assert found(said, labels) == {}
