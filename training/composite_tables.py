"""A composite fit as text: what every number of components reaches, beside the best single input."""

from __future__ import annotations

from training.composite import REPEATS, CompositeFit
from training.composite_run import CompositeReport
from training.evaluation_tables import shown
from training.tables import Table


def composite_text(report: CompositeReport) -> str:
    """Everything that a person reads of a fit."""
    fit = report.fit
    lines = [
        f"{fit.images} images of {fit.sources} sources against {report.feedback}; left out: "
        f"{report.without_feedback} without {report.feedback}, {len(report.failures)} without attributes. "
        f"Figures: mean of {REPEATS} cross-validations in {fit.folds} folds by source. In brackets: 95 % "
        "bootstrap intervals that draw sources.",
        str(components_table(fit)),
        f"Best single input: {fit.best_input}, SRCC {shown(fit.best_srcc)}; the composite's − its: "
        f"{shown(fit.gain, signed=True)}.",
        str(weights_table(fit)),
        _served(report),
    ]
    return "\n\n".join(lines)


def components_table(fit: CompositeFit) -> Table:
    """Cross-validated figures a number of components, the chosen one marked."""
    rows = [
        (
            f"{one.components} (chosen)" if one.components == fit.components else str(one.components),
            *map(shown, (one.srcc, one.plcc, one.rmse)),
        )
        for one in fit.candidates
    ]
    return Table("Components", ("components", "SRCC", "PLCC", "RMSE of the feedback's scale"), tuple(rows))


def weights_table(fit: CompositeFit) -> Table:
    """The weights as the manifest holds them."""
    rows = [("intercept", f"{fit.weights.intercept:+.4f}")]
    rows += [(name, f"{weight:+.4f}") for name, weight in fit.weights.weights.items()]
    rows += [(name, "none: it never changes here") for name in fit.constant]
    return Table("Weights", ("input", "weight of one code"), tuple(rows))


def _served(report: CompositeReport) -> str:
    default = report.manifest.answer.default_template
    served = f"composite_score is filled by templates {', '.join(report.templates)}"
    return f"{served}." if default in report.templates else f"{served}, not by the default, {default}."
