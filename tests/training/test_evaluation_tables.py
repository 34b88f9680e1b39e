from __future__ import annotations

import numpy as np

from training.bootstrap import Estimate
from training.evaluate import compare_decoders, score_coverage
from training.evaluation import Agreement, Evaluation, LabelAgreement, MosCorrelation, TargetEvaluation
from training.evaluation_tables import (
    agreement_table,
    decoder_table,
    evaluation_tables,
    label_table,
    mos_table,
    shown,
)
from training.tables import Table

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
    (row,) = label_table(evaluation()).rows
    assert row == ("image_clarity", "0.750 [0.700, 0.800]", "0.750", "clear", "0.125", "0.100")


def test_what_does_not_exist_is_a_dash() -> None:
    (row,) = agreement_table(evaluation()).rows
    assert row == ("image_clarity", "40", "20", "–", "–", "0.250 [0.200, 0.300]", "–", "–", "–")


def test_every_row_has_the_cells_of_its_head() -> None:
    numbers = np.random.default_rng(0).uniform(0, 10, size=(3, 20))
    readings = {"digit_tree": numbers[0], "greedy": numbers[1]}
    full = evaluation(
        coverage=score_coverage(numbers[0], numbers[1], numbers[2], np.arange(20)),
        decoders=compare_decoders(readings, numbers[2], np.arange(20)),
        mos_correlations=(MosCorrelation("exposure", 20, 20, Estimate(0.5, 0.4, 0.6)),),
    )
    tables = [part for part in evaluation_tables(full).split("\n\n") if part.startswith("|")]
    assert len(tables) == 5
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "greedy − digit_tree" in str(decoder_table(full))
    assert "| exposure | 20 | 20 | 0.500 [0.400, 0.600] |" in str(mos_table(full))


def test_tables_without_rows_are_left_out() -> None:
    tables = [part for part in evaluation_tables(evaluation()).split("\n\n") if part.startswith("|")]
    assert len(tables) == 2


def test_the_correlation_after_the_logistic_has_its_own_labelled_column() -> None:
    score = TargetEvaluation("score", 40, 20, CONSTANT, None, None, plcc_logistic=Estimate(0.9, 0.8, 0.95))
    failed = TargetEvaluation("score", 40, 20, CONSTANT, None, None, plcc_logistic=NOTHING)
    attribute = TargetEvaluation("image_clarity", 40, 20, CONSTANT, None, LABELS)
    table = agreement_table(evaluation(targets=(score, attribute)))
    column = table.head.index("PLCC after the 4-parameter logistic")
    assert [row[column] for row in table.rows] == ["0.900 [0.800, 0.950]", "–"]
    assert agreement_table(evaluation(targets=(failed,))).rows[0][column] == "–"
    assert "logistic" not in str(agreement_table(evaluation()))


def test_a_table_is_the_same_in_markdown_and_html_and_nothing_without_rows() -> None:
    table = Table("T & t", ("a", "b"), (("1 < 2", "x"),))
    assert str(table) == "| a | b |\n| --- | --- |\n| 1 < 2 | x |"
    assert "<h3>T &amp; t</h3>" in table.to_html()
    assert "<td>1 &lt; 2</td><td>x</td>" in table.to_html()
    assert (str(Table("T", ("a",), ())), Table("T", ("a",), ()).to_html()) == ("", "")
