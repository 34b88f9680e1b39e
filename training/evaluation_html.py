"""An evaluation as one page: tables and pictures in a single file that needs no net and runs no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from training.evaluation import Evaluation
from training.evaluation_report import SYNTHETIC, EvaluationReport, data_sets_table
from training.evaluation_tables import all_tables, how_to_read
from training.svg import confusion_svg, reliability_svg, scatter_svg

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1c2430; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #d5dae1; padding: .25rem .7rem; text-align: left; white-space: nowrap; }
figure { display: inline-block; margin: 1rem 1.5rem 1rem 0; vertical-align: top; }
.warning { background: #fff3d6; padding: .5rem .8rem; }
svg text { font: 12px system-ui, sans-serif; fill: #1c2430; }
svg text.light { fill: #fff; }
svg .frame { fill: none; stroke: #9aa4b2; }
svg .diagonal { stroke: #9aa4b2; stroke-dasharray: 4 4; }
svg .dot { fill: #2563a8; fill-opacity: .55; }
svg .disc { fill: #2563a8; fill-opacity: .65; }
svg .cell { fill: #2563a8; stroke: #d5dae1; }
"""


def evaluation_page(reports: Sequence[EvaluationReport]) -> str:
    """Lay out reports of one adapter as a whole HTML document.

    Args:
        reports: One a data set, at least one.
    """
    title = f"Evaluation of {reports[0].subject}"
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(reports) > 1:
        parts.append(data_sets_table(reports).to_html())
    parts += [_section(report) for report in reports]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(report: EvaluationReport) -> str:
    lines = [report.who, report.what, report.failed, how_to_read(report.evaluation)]
    parts = [f"<h2>{escape(report.data)}</h2>", *[f"<p>{escape(line)}</p>" for line in lines]]
    if report.synthetic:
        parts.append(f'<p class="warning">{escape(SYNTHETIC)}</p>')
    parts += [table.to_html() for table in all_tables(report.evaluation)]
    parts += _figures(report.evaluation)
    return "<section>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _figures(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.points:
        name = "Predicted score against mos"
        yield "<h3>Score</h3>"
        yield _figure(scatter_svg(evaluation.points, name), f"{name}; dashed: no error")
    for target in evaluation.targets:
        if target.labels is None:
            continue
        yield f"<h3>{escape(target.target)}</h3>"
        if target.labels.confusion is not None:
            name = f"Confusion matrix of {target.target}"
            words = f"{name}: rows true, columns decided, shade = share of the row"
            yield _figure(confusion_svg(target.labels.confusion, name), words)
        if target.labels.reliability:
            name = f"Reliability diagram of {target.target}"
            words = f"{name}: area = images, dashed: confidences that are right"
            yield _figure(reliability_svg(target.labels.reliability, name), words)


def _figure(picture: str, caption: str) -> str:
    return f"<figure>\n{picture}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
