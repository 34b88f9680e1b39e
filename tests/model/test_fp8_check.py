"""The check before anyone uses FP8: what it computes, and what its command says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from model import fp8_check
from model.__main__ import main
from model.fp8_check import FEWEST_PHOTOGRAPHS, agreement
from tests.model.artefact import write_artefact
from tests.model.test_scorer import photograph

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def test_equal_scores_pass_and_two_that_change_places_among_few_do_not() -> None:
    scores = [float(number) for number in range(30)]
    same = agreement(scores, scores, "kernel")
    assert (same.passes, same.srcc, same.max_difference) == (True, pytest.approx(1), 0)
    swapped = [*scores[:28], 29.0, 28.0]
    found = agreement(scores, swapped, "kernel")
    assert found.passes
    assert (found.median_difference, found.max_difference) == (0, 1)
    far = [*scores[:26], 28.0, 27.0, 26.0, 29.0]
    assert not agreement(scores, far, "kernel").passes
    assert "FAILED, needs at least 0.999" in agreement(scores, far, "kernel").text()


def test_scores_that_are_all_equal_rank_nothing() -> None:
    assert agreement([5.0] * 30, [5.0] * 30, "kernel").srcc == 0


def test_the_correlation_is_spearmans_also_with_ties() -> None:
    draw = np.random.default_rng(0)
    one = draw.integers(0, 9, 50) / 10
    other = one + draw.integers(-2, 3, 50) / 10
    assert agreement(list(one), list(other), "").srcc == pytest.approx(spearmanr(one, other).statistic)


@pytest.mark.parametrize(("least", "code"), [(0.999, 1), (-1.0, 0)])
def test_the_command_compares_both_formats_and_ends_as_the_check_did(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    least: float,
    code: int,
) -> None:
    monkeypatch.setattr(fp8_check, "LEAST_SRCC", least)
    files = []
    for seed in range(FEWEST_PHOTOGRAPHS):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(photograph(seed))
    # Of random weights scores are near each other, and eight bits put them into another order.
    adapter = str(write_artefact(tmp_path / "artefact").adapter)
    assert main(["--adapter", adapter, "--device", "cpu", "--fp8-check", *map(str, files)]) == code
    said = capsys.readouterr().out
    assert said.startswith(f"fp8 (reference arithmetic), {FEWEST_PHOTOGRAPHS} photographs: SRCC 0.")
    assert ("FAILED" in said) is bool(code)


def test_the_command_says_what_it_cannot_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--fp8-check", "a.jpg"]) == 2
    assert "give at least 20" in capsys.readouterr().err
    gone = [str(tmp_path / f"{number}.jpg") for number in range(FEWEST_PHOTOGRAPHS)]
    assert main(["--device", "cpu", "--fp8-check", *gone]) == 1
    assert "0.jpg: not scored (fetch)" in capsys.readouterr().err
    assert main(["--device", "cpu", "--fp8", "a.jpg"]) == 2
    assert "fp8: needs a CUDA device" in capsys.readouterr().err
