"""An evaluation as tables, for a terminal, a card or a page."""

from __future__ import annotations

from collections.abc import Sequence

from training.bootstrap import FEWEST_SOURCES, Estimate
from training.evaluation import Agreement, Evaluation, Parsing, ScoreFigures
from training.tables import Table

_NONE = "–"
_PARSING = "Values that could not be read out of what was written"


def evaluation_tables(evaluation: Evaluation) -> str:
    """Lay out everything that was measured as markdown, with a sentence on how to read it."""
    parts = [how_to_read(evaluation), *map(str, all_tables(evaluation))]
    return "\n\n".join(part for part in parts if part)


def all_tables(evaluation: Evaluation) -> list[Table]:
    """Every table of an evaluation, in the order in which it is read; some may have no rows."""
    return [
        agreement_table(evaluation),
        parsing_table(evaluation),
        label_table(evaluation),
        coverage_table(evaluation),
        decoder_table(evaluation),
        mos_table(evaluation),
        context_table(evaluation),
    ]


def agreement_table(evaluation: Evaluation) -> Table:
    """SRCC, PLCC and RMSE a target, decided and expected; the score's PLCC after the logistic too.

    Of freely written answers also how many labelled images have one that lacks the target.
    """
    curved = any(t.plcc_logistic is not None for t in evaluation.targets)
    free = evaluation.parsing is not None
    head = ["target", "n", *(["not parsed"] if free else []), "sources", *_agreement_head("decided")]
    head += [*(["PLCC after the 4-parameter logistic"] if curved else []), *_agreement_head("expected")]
    rows = []
    for t in evaluation.targets:
        after = [_NONE if t.plcc_logistic is None else shown(t.plcc_logistic)] if curved else []
        unread = [_NONE if t.unread is None else str(t.unread)] if free else []
        numbers = [t.target, str(t.images), *unread, str(t.sources)]
        rows.append([*numbers, *_agreement_cells(t.decided), *after, *_agreement_cells(t.expected)])
    return _table("Agreement with the labels", head, rows)


def parsing_table(evaluation: Evaluation) -> Table:
    """Freely written answers without a value that can be read: by target and reason, and whole answers."""
    parsing = evaluation.parsing
    head = ["answers without", "n", "not parsed", "missing", "not an allowed value", "out of range"]
    if parsing is None:
        return _table(_PARSING, head, [])
    numbers = [
        (one.target, parsing.answers, one.failed, one.missing, one.not_allowed, one.out_of_range)
        for one in parsing.targets
    ]
    last = ["some of these", str(parsing.answers), str(parsing.failed), _NONE, _NONE, _NONE]
    return _table(_PARSING, head, [*[[str(cell) for cell in row] for row in numbers], last])


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
    """Ways to read the score, and their paired differences to the first."""
    head = ["score read by", "SRCC", "PLCC", "RMSE", "mean error (predicted − true)"]
    rows = []
    for found in evaluation.decoders:
        rows.append([found.decoder, *_figure_cells(found.figures)])
        if found.difference is not None:
            first = evaluation.decoders[0].decoder
            rows.append([f"{found.decoder} − {first}", *_figure_cells(found.difference, signed=True)])
    return _table("Ways to read the score", head, rows)


def mos_table(evaluation: Evaluation) -> Table:
    """SRCC of the composite score and of every predicted attribute with mos (RealQA's Figure 2)."""
    head = ["predicted", "n", "sources", "SRCC with mos"]
    rows = [
        [one.predicted, str(one.images), str(one.sources), shown(one.srcc)]
        for one in evaluation.mos_correlations
    ]
    return _table("Predicted attributes against mos", head, rows)


def context_table(evaluation: Evaluation) -> Table:
    """The score by context shown, its paired differences to none, and which of those are significant."""
    head = [
        "images",
        "n",
        "sources",
        "context",
        "SRCC",
        "PLCC",
        "RMSE",
        "significant (0 not in the interval)",
    ]
    rows = []
    for found in evaluation.contexts:
        start = [found.group, str(found.images), str(found.sources)]
        rows.append([*start, found.context, *_figure_cells(found.figures)[:3], _NONE])
        if found.difference is not None:
            cells = _figure_cells(found.difference, signed=True)[:3]
            rows.append([*start, f"{found.context} − none", *cells, _significant(found.difference)])
    return _table("The score by the context shown", head, rows)


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
        + ("" if evaluation.parsing is None else _how_to_read_parsing(evaluation.parsing))
    )


def _how_to_read_parsing(parsing: Parsing) -> str:
    return (
        f" Answers were written freely, one an image or video frame, {parsing.answers} of them; "
        f"{parsing.cut_off} did not end within {parsing.limit_tokens} tokens. A value that cannot be read "
        "out of its answer is not parsed, and in no figure."
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


def _significant(differences: ScoreFigures) -> str:
    """Say in which figures 0 lies outside the interval, and on which side."""
    named = {"SRCC": differences.srcc, "PLCC": differences.plcc, "RMSE": differences.rmse}
    said = []
    for name, found in named.items():
        if found.low is None or found.high is None:
            said.append(f"{name} unknown")
        elif found.low > 0 or found.high < 0:
            said.append(f"{name} {'rises' if found.low > 0 else 'falls'}")
    return ", ".join(said) or "nothing"


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return _NONE
    return f"{value:+z.3f}" if signed else f"{value:z.3f}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(title, tuple(head), tuple(tuple(row) for row in rows))
