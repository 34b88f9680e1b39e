from __future__ import annotations

from dataclasses import replace

from schemas.records import Provenance
from training.bootstrap import Estimate
from training.demo.aims import aim_table, check_aims
from training.demo.ladder_report import LadderReport
from training.demo.ladders import LADDERS, Climb
from training.evaluation import Agreement, Evaluation, TargetEvaluation

PROVENANCE = Provenance("base", "fake", "0" * 64, "t", "digit_tree", "1", "cpu", "float32")


def _evaluation(**srcc: float | None) -> Evaluation:
    one = Estimate(1.0)
    targets = [
        TargetEvaluation(name, 10, 10, Agreement(Estimate(value), one, one), None, None)
        for name, value in srcc.items()
    ]
    return Evaluation(10, 10, tuple(targets), (), (), 0)


def _ladders(lead: float | None, count: int = len(LADDERS)) -> LadderReport:
    found = None if lead is None else Estimate(lead)
    climbs = tuple(Climb(ladder, None, None, None, found) for ladder in LADDERS[:count])
    return LadderReport(PROVENANCE, True, ("a", "b"), (364, 280), lead is not None, climbs)


GOOD = _evaluation(score=0.86, image_clarity=0.81, exposure=0.8, saturation=0.9, composition=0.5)


def _met(*arguments) -> dict[str, bool | None]:
    return {aim.aim.split(" ≥")[0].split(":")[0]: aim.met for aim in check_aims(*arguments)}


TIME = "the whole run in 60 minutes with 2 threads"


def test_a_run_that_reaches_everything_has_met_every_aim() -> None:
    met = _met(GOOD, _ladders(-0.05), 59.0, 2, 11.9)
    assert len(met) == 11
    assert set(met.values()) == {True}


def test_every_aim_can_be_missed() -> None:
    bad = _evaluation(score=0.8, image_clarity=0.7, exposure=0.79, saturation=0.1, composition=0.0)
    met = _met(bad, _ladders(-0.06, count=10), 61.0, 2, 12.1)
    assert set(met.values()) == {False}


def test_a_part_of_a_run_says_nothing_about_the_time() -> None:
    assert _met(GOOD, _ladders(0.1), None, 2, 1.0)[TIME] is None


def test_a_run_with_another_number_of_threads_says_nothing_about_the_time() -> None:
    for threads, met in ((1, None), (2, True), (16, None)):
        aims = check_aims(GOOD, _ladders(0.1), 5.0, threads, 1.0)
        (time,) = [aim for aim in aims if aim.aim == TIME]
        assert time.met is met
        assert time.figure == ("5 minutes" if met else "not measured on 2 threads")


def test_aims_about_blur_compare_brisque_with_the_clarity() -> None:
    blurs = [aim.aim for aim in check_aims(GOOD, _ladders(0.1), 1.0, 2, 1.0) if "blur:" in aim.aim]
    assert len(blurs) == 2
    assert all("pooled SRCC of the clarity at most 0.05 below BRISQUE's" in aim for aim in blurs)


def test_a_target_that_never_changes_is_missed_and_counts_nothing_in_the_mean() -> None:
    silent = replace(
        GOOD, targets=(*GOOD.targets[:-1], *_evaluation(composition=None, level_shot=None).targets)
    )
    met = _met(silent, _ladders(0.1), 1.0, 2, 1.0)
    assert met["mean SRCC of the 5 attributes"] is False  # (0.81 + 0.8 + 0.9) / 5
    without_score = _evaluation(image_clarity=0.9)
    assert _met(without_score, _ladders(0.1), 1.0, 2, 1.0)["SRCC of score"] is False


def test_without_brisque_its_aims_are_neither_met_nor_missed() -> None:
    aims = check_aims(GOOD, _ladders(None), 1.0, 2, 1.0)
    assert [aim.met for aim in aims].count(None) == 3
    table = aim_table(aims)
    assert table.count("not measured") == 3
    assert "| 1 minutes |" in table
    assert {line.count("|") for line in table.splitlines()} == {4}
