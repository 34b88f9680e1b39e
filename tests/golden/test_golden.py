"""The shipped adapter still says what the golden file says it said; and the comparison sees what it must."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.records import Prediction
from tests.golden.photographs import FILES, photographs_and_copies
from tests.golden.predicting import load_scorers, predict_golden
from tests.golden.records import (
    DECIDED,
    NOT_COMPARED,
    NUMBERS,
    TOLERANCE,
    Comparison,
    Golden,
    GoldenRecord,
    compare,
    compare_all,
    problems,
    read_golden,
    write_golden,
)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden()


@pytest.fixture(scope="module")
def found() -> Golden:
    return predict_golden(load_scorers().values(), shaken=False)


def told(comparisons: list[Comparison]) -> str:
    return "\n".join(map(str, comparisons))


def test_the_file_is_of_the_shipped_adapter_and_of_these_photographs(golden: Golden, found: Golden) -> None:
    said = problems(golden, found)
    assert not said, "; ".join(said)


def test_the_shipped_adapter_says_what_it_said(golden: Golden, found: Golden) -> None:
    said = problems(golden, found)
    assert not said, "; ".join(said)
    comparisons = compare_all(golden, found)
    differing = [comparison for comparison in comparisons if comparison.verdict == "DIFFERS"]
    assert not differing, told(differing)
    forked = [comparison for comparison in comparisons if comparison.verdict == "forked"]
    assert len(forked) <= len(comparisons) // 10, told(forked)


def test_the_copies_show_their_fault() -> None:
    pixels = {
        name: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
        for name, data in photographs_and_copies().items()
    }
    assert len(pixels) == len(FILES) + 10
    for name in ("astronaut", "china"):
        plain, blurred, dark, bright, pale, garish = (
            pixels[name + fault] for fault in ("", "-blurred", "-dark", "-bright", "-pale", "-garish")
        )
        assert dark.mean() < plain.mean() < bright.mean()
        assert pale.std(axis=2).mean() < plain.std(axis=2).mean() < garish.std(axis=2).mean()
        assert np.abs(np.diff(blurred, axis=0)).mean() < np.abs(np.diff(plain, axis=0)).mean() / 2
        assert blurred.mean() == pytest.approx(plain.mean(), abs=1)


@pytest.fixture
def record() -> GoldenRecord:
    said = Prediction(
        score=6.5,
        score_greedy=6.61,
        format_mass=0.99,
        exposure="properly exposed",
        saturation="oversaturated",
    )
    return GoldenRecord(photograph="x", template="t", pixels_sha256="1" * 64, unclear=(), prediction=said)


def changed(record: GoldenRecord, **values: Any) -> GoldenRecord:
    return record.model_copy(update={"prediction": replace(record.prediction, **values)})


def test_a_number_may_move_within_the_tolerance_and_no_further(record: GoldenRecord) -> None:
    near = compare(record, changed(record, score=6.5 - TOLERANCE / 2), TOLERANCE)
    far = compare(record, changed(record, score=6.5 - 2 * TOLERANCE), TOLERANCE)
    assert (near.verdict, near.number) == ("same", "score")
    assert (far.verdict, far.number) == ("DIFFERS", "score")
    assert compare(record, changed(record, score=None), TOLERANCE).verdict == "DIFFERS"
    assert compare(record, changed(record, format_mass=0.5), TOLERANCE).number == "format_mass"


def test_a_clear_value_must_not_change(record: GoldenRecord) -> None:
    found = compare(record, changed(record, exposure="underexposed"), TOLERANCE)
    assert (found.verdict, found.changed) == ("DIFFERS", ("exposure",))
    assert "exposure: properly exposed → underexposed" in str(found)
    assert compare(record, changed(record, score_greedy=1.0), TOLERANCE).verdict == "DIFFERS"


@pytest.mark.parametrize("values", [{"exposure": "underexposed", "score": 1.0}, {"score_greedy": 1.0}])
def test_an_answer_that_forked_at_an_unclear_value_is_not_compared(
    record: GoldenRecord, values: dict[str, Any]
) -> None:
    unclear = record.model_copy(update={"unclear": ("exposure", "score_greedy")})
    found = compare(unclear, changed(unclear, saturation="undersaturated", **values), TOLERANCE)
    assert found.verdict == "forked"
    assert "(unclear)" in str(found)
    assert compare(unclear, changed(unclear, saturation="undersaturated"), TOLERANCE).verdict == "DIFFERS"


def test_every_field_of_a_prediction_is_compared_or_named_as_not() -> None:
    named = [*DECIDED, *NUMBERS, *NOT_COMPARED]
    assert sorted(named) == sorted(field.name for field in fields(Prediction))


def test_other_pixels_are_named_beside_the_difference(record: GoldenRecord) -> None:
    found = compare(record, record.model_copy(update={"pixels_sha256": "0" * 64}), TOLERANCE)
    assert str(found).endswith("the model saw other pixels")


def test_a_file_of_another_adapter_says_how_to_write_it_anew(golden: Golden) -> None:
    header = golden.header.model_copy(update={"adapter_revision": "f" * 64})
    (what, how) = problems(golden, golden.model_copy(update={"header": header}))
    assert "ffffffffffff" in what
    assert "python -m tests.golden --write" in how


def test_a_photograph_that_only_one_side_has_is_named(golden: Golden) -> None:
    fewer = golden.model_copy(update={"records": golden.records[1:]})
    first = golden.records[0]
    assert f"{first.photograph} ({first.template})" in problems(golden, fewer)[0]
    assert len(compare_all(golden, fewer)) == len(golden.records) - 1


def test_what_was_written_reads_back(
    golden: Golden, record: GoldenRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.golden.records.GOLDEN_FILE", tmp_path / "golden.json")
    written = golden.model_copy(update={"records": (record,)})
    write_golden(written)
    assert read_golden() == written


def test_help_loads_no_torch() -> None:
    code = "import sys\ntry:\n    main(['--help'])\nexcept SystemExit:\n    sys.exit('torch' in sys.modules)"
    asked = subprocess.run(
        [sys.executable, "-c", f"from tests.golden.__main__ import main\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert "--spread" in asked.stdout
