"""An evaluation as markdown tables, for a terminal or a card."""

from __future__ import annotations

from collections.abc import Sequence

from training.bootstrap import FEWEST_SOURCES, Estimate
from training.evaluation import Agreement, Evaluation, ScoreFigures

_NONE = "–"


def evaluation_tables(evaluation: Evaluation) -> str:
    """Lay out everything that was measured, with a sentence on how to read it."""
    parts = [
        _how_to_read(evaluation),
        agreement_table(evaluation),
        label_table(evaluation),
        coverage_table(evaluation),
        decoder_table(evaluation),
    ]
    return "\n\n".join(part for part in parts if part)


def agreement_table(evaluation: Evaluation) -> str:
    """SRCC, PLCC and RMSE a target, of decided and of expected values."""
    head = ["target", "n", "sources", *_agreement_head("decided"), *_agreement_head("expected")]
    rows = [
        [t.target, str(t.images), str(t.sources), *_agreement_cells(t.decided), *_agreement_cells(t.expected)]
        for t in evaluation.targets
    ]
    return _table(head, rows)


def label_table(evaluation: Evaluation) -> str:
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
    return _table(head, rows)


def coverage_table(evaluation: Evaluation) -> str:
    """Share of true scores within one and two deviations."""
    head = ["true score within", "share", "if errors were Gaussian"]
    rows = [[f"± {c.deviations} score_std", shown(c.share), _number(c.gaussian)] for c in evaluation.coverage]
    return _table(head, rows)


def decoder_table(evaluation: Evaluation) -> str:
    """Ways to read the score, and their paired differences to the digit tree."""
    head = ["score read by", "SRCC", "PLCC", "RMSE", "mean error (predicted − true)"]
    rows = []
    for found in evaluation.decoders:
        rows.append([found.decoder, *_figure_cells(found.figures)])
        if found.difference is not None:
            rows.append([f"{found.decoder} − digit_tree", *_figure_cells(found.difference, signed=True)])
    return _table(head, rows)


def shown(estimate: Estimate, *, signed: bool = False) -> str:
    """A figure and its interval: ``0.711 [0.680, 0.740]``."""
    text = _number(estimate.value, signed=signed)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{_number(estimate.low, signed=signed)}, {_number(estimate.high, signed=signed)}]"


def _how_to_read(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.images} images of {evaluation.sources} sources. In brackets: 95 % percentile "
        f"bootstrap, {evaluation.resamples} resamples of sources, seed {evaluation.seed}; none with fewer "
        f"than {FEWEST_SOURCES} sources. Score in points of 0–10, attributes as ordinal codes. "
        f'"{_NONE}": not there, or no correlation because one side never changes.'
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
