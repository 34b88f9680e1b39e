from __future__ import annotations

import numpy as np

from training.bootstrap import Estimate
from training.evaluate import compare_decoders, score_coverage
from training.evaluation import Agreement, Evaluation, LabelAgreement, TargetEvaluation
from training.evaluation_tables import agreement_table, decoder_table, evaluation_tables, label_table, shown

NOTHING = Estimate(None)
CONSTANT = Agreement(NOTHING, NOTHING, Estimate(0.25, 0.2, 0.3))
LABELS = LabelAgreement(Estimate(0.75, 0.7, 0.8), "clear", 0.75, 0.125, 0.1)


def evaluation(**changes) -> Evaluation:
    target = TargetEvaluation("image_clarity", 40, 20, CONSTANT, None, LABELS)
    fields = {"targets": (target,), "coverage": (), "decoders": (), **changes}
    return Evaluation(images=40, sources=20, seed=0, **fields)


def test_a_figure_is_shown_with_its_interval_if_it_has_one() -> None:
    assert shown(Estimate(0.7114, 0.68, 0.7404)) == "0.711 [0.680, 0.740]"
    assert shown(Estimate(-0.0001, -0.1, 0.1), signed=True) == "+0.000 [-0.100, +0.100]"
    assert shown(Estimate(1.0)) == "1.000"
    assert shown(NOTHING) == "–"


def test_accuracy_stands_beside_that_of_the_majority_label() -> None:
    row = label_table(evaluation()).splitlines()[2]
    assert row == "| image_clarity | 0.750 [0.700, 0.800] | 0.750 | clear | 0.125 | 0.100 |"


def test_what_does_not_exist_is_a_dash() -> None:
    row = agreement_table(evaluation()).splitlines()[2]
    assert row == "| image_clarity | 40 | 20 | – | – | 0.250 [0.200, 0.300] | – | – | – |"


def test_every_row_has_the_cells_of_its_head() -> None:
    numbers = np.random.default_rng(0).uniform(0, 10, size=(3, 20))
    readings = {"digit_tree": numbers[0], "greedy": numbers[1]}
    full = evaluation(
        coverage=score_coverage(numbers[0], numbers[1], numbers[2], np.arange(20)),
        decoders=compare_decoders(readings, numbers[2], np.arange(20)),
    )
    tables = [part for part in evaluation_tables(full).split("\n\n") if part.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "greedy − digit_tree" in decoder_table(full)


def test_tables_without_rows_are_left_out() -> None:
    tables = [part for part in evaluation_tables(evaluation()).split("\n\n") if part.startswith("|")]
    assert len(tables) == 2
