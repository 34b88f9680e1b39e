"""An evaluation as tables, for a terminal, a card or a page."""

from __future__ import annotations

from collections.abc import Sequence

from training.bootstrap import FEWEST_SOURCES, Estimate
from training.evaluation import Agreement, Evaluation, ScoreFigures
from training.tables import Table

_NONE = "–"


def evaluation_tables(evaluation: Evaluation) -> str:
    """Lay out everything that was measured as markdown, with a sentence on how to read it."""
    parts = [how_to_read(evaluation), *map(str, all_tables(evaluation))]
    return "\n\n".join(part for part in parts if part)


def all_tables(evaluation: Evaluation) -> list[Table]:
    """Every table of an evaluation, in the order in which it is read; some may have no rows."""
    return [
        agreement_table(evaluation),
        label_table(evaluation),
        coverage_table(evaluation),
        decoder_table(evaluation),
        mos_table(evaluation),
    ]


def agreement_table(evaluation: Evaluation) -> Table:
    """SRCC, PLCC and RMSE a target, decided and expected; the score's PLCC after the logistic too."""
    curved = any(t.plcc_logistic is not None for t in evaluation.targets)
    head = ["target", "n", "sources", *_agreement_head("decided")]
    head += [*(["PLCC after the 4-parameter logistic"] if curved else []), *_agreement_head("expected")]
    rows = []
    for t in evaluation.targets:
        after = [_NONE if t.plcc_logistic is None else shown(t.plcc_logistic)] if curved else []
        numbers = [t.target, str(t.images), str(t.sources)]
        rows.append([*numbers, *_agreement_cells(t.decided), *after, *_agreement_cells(t.expected)])
    return _table("Agreement with the labels", head, rows)


def label_table(evaluation: Evaluation) -> Table:
    """Accuracy of decided labels beside saying the most frequent one always, and calibration."""
    head = ["attribute", "accuracy", "majority label always", "majority label", "ECE", "ECE if calibrated"]
    rows = [
        [
            t.target,
            shown(t.labels.accuracy),
            _number(t.labels.majority_accuracy),
            t.labels.majority_label,
            _number(t.labels.ece),
            _number(t.labels.ece_if_calibrated),
        ]
        for t in evaluation.targets
        if t.labels is not None
    ]
    return _table("Labels and their confidences", head, rows)


def coverage_table(evaluation: Evaluation) -> Table:
    """Share of true scores within one and two deviations."""
    head = ["true score within", "share", "if errors were Gaussian"]
    rows = [[f"± {c.deviations} score_std", shown(c.share), _number(c.gaussian)] for c in evaluation.coverage]
    return _table("Coverage of the score's deviation", head, rows)


def decoder_table(evaluation: Evaluation) -> Table:
    """Ways to read the score, and their paired differences to the digit tree."""
    head = ["score read by", "SRCC", "PLCC", "RMSE", "mean error (predicted − true)"]
    rows = []
    for found in evaluation.decoders:
        rows.append([found.decoder, *_figure_cells(found.figures)])
        if found.difference is not None:
            rows.append([f"{found.decoder} − digit_tree", *_figure_cells(found.difference, signed=True)])
    return _table("Ways to read the score", head, rows)


def mos_table(evaluation: Evaluation) -> Table:
    """SRCC of the composite score and of every predicted attribute with mos (RealQA's Figure 2)."""
    head = ["predicted", "n", "sources", "SRCC with mos"]
    rows = [
        [one.predicted, str(one.images), str(one.sources), shown(one.srcc)]
        for one in evaluation.mos_correlations
    ]
    return _table("Predicted attributes against mos", head, rows)


def shown(estimate: Estimate, *, signed: bool = False) -> str:
    """A figure and its interval: ``0.711 [0.680, 0.740]``."""
    text = _number(estimate.value, signed=signed)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{_number(estimate.low, signed=signed)}, {_number(estimate.high, signed=signed)}]"


def how_to_read(evaluation: Evaluation) -> str:
    """Say what the figures are of, how sure they are, and what a dash means."""
    return (
        f"{evaluation.images} images of {evaluation.sources} sources. In brackets: 95 % percentile "
        f"bootstrap, {evaluation.resamples} resamples of sources, seed {evaluation.seed}; none with fewer "
        f"than {FEWEST_SOURCES} sources. Score in points of 0–10, attributes as ordinal codes. "
        f'"{_NONE}": not there, or no correlation because one side never changes, or no rising '
        "logistic that fits."
    )


def _agreement_head(which: str) -> list[str]:
    return [f"{name} {which}" for name in ("SRCC", "PLCC", "RMSE")]


def _agreement_cells(agreement: Agreement | None) -> list[str]:
    if agreement is None:
        return [_NONE] * 3
    return [shown(agreement.srcc), shown(agreement.plcc), shown(agreement.rmse)]


def _figure_cells(figures: ScoreFigures, *, signed: bool = False) -> list[str]:
    return [
        *[shown(one, signed=signed) for one in (figures.srcc, figures.plcc, figures.rmse)],
        shown(figures.mean_error, signed=True),
    ]


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return _NONE
    return f"{value:+z.3f}" if signed else f"{value:z.3f}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(title, tuple(head), tuple(tuple(row) for row in rows))
