"""Small pictures as SVG text: no library, no script, nothing from the net. Colours are the page's (CSS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from training.evaluation import ConfusionMatrix, ReliabilityBin, ScorePoint

_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 300, 52, 16, 44, 16  # px
_CELL, _LABEL_WIDTH, _LETTER = 44, 250, 34  # px
_LONGEST_LABEL = 36  # characters that fit beside a matrix
_SCORES, _SHARES = (0, 2, 4, 6, 8, 10), (0, 0.2, 0.4, 0.6, 0.8, 1)


def scatter_svg(points: Sequence[ScorePoint], name: str) -> str:
    """Draw predicted scores over true ones, 0–10 both, with the diagonal of no error.

    Args:
        points: One an image; its name, numbers and deviation show under the pointer.
        name: What the picture shows.
    """
    axes = _Axes(_SCORES, "mos on 0–10", "score")
    marks = [
        f'<circle class="dot" cx="{axes.x(p.mos):.1f}" cy="{axes.y(p.score):.1f}" r="2.5">'
        f"<title>{escape(p.image)}: mos {p.mos:.2f}, score {p.score:.2f}{_deviation(p)}</title></circle>"
        for p in points
    ]
    return axes.picture(marks, name)


def _deviation(point: ScorePoint) -> str:
    return "" if point.score_std is None else f" ± {point.score_std:.2f}"


def reliability_svg(bins: Sequence[ReliabilityBin], name: str) -> str:
    """Draw accuracy over mean confidence, a disc a bin, its area by the bin's images.

    Args:
        bins: Those that hold images.
        name: What the picture shows.
    """
    axes = _Axes(_SHARES, "confidence", "accuracy")
    most = max((one.images for one in bins), default=1)
    marks = [
        f'<circle class="disc" cx="{axes.x(one.confidence):.1f}" cy="{axes.y(one.accuracy):.1f}" '
        f'r="{3 + 9 * (one.images / most) ** 0.5:.1f}"><title>{one.images} images of confidence '
        f"{one.low:.2f}–{one.high:.2f}: {one.accuracy:.3f} right, {one.confidence:.3f} said</title></circle>"
        for one in bins
    ]
    return axes.picture(marks, name)


def confusion_svg(matrix: ConfusionMatrix, name: str) -> str:
    """Draw counts as shaded cells: a row a true label, a column a decided one, shade by the row's share.

    Args:
        matrix: Of one attribute.
        name: What the picture shows.
    """
    marks = [f'<text class="axis" x="{_LABEL_WIDTH + 4}" y="{_LETTER - 20}">decided</text>']
    for row, (label, counts) in enumerate(zip(matrix.labels, matrix.counts, strict=True)):
        y, total = _LETTER + row * _CELL, sum(counts)
        marks.append(_text(_LABEL_WIDTH - 6, y + _CELL / 2 + 4, f"{_short(label)} · {row + 1}", "end"))
        marks.append(_text(_LABEL_WIDTH + (row + 0.5) * _CELL, _LETTER - 5, str(row + 1), "middle"))
        for column, count in enumerate(counts):
            x, share = _LABEL_WIDTH + column * _CELL, count / total if total else 0.0
            said = f"true {label}, decided {matrix.labels[column]}: {count} of {total}"
            marks.append(
                f'<rect class="cell" x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" '
                f'fill-opacity="{share:.3f}"><title>{escape(said)}</title></rect>'
            )
            shade = "light" if share > 0.5 else "dark"
            marks.append(_text(x + _CELL / 2 - 1, y + _CELL / 2 + 3, str(count), "middle", shade))
    size = len(matrix.labels) * _CELL
    return _svg(_LABEL_WIDTH + size + 4, _LETTER + size + 4, marks, name)


@dataclass(frozen=True, slots=True)
class _Axes:
    """A square with the same scale on both sides, from the first tick to the last."""

    ticks: tuple[float, ...]
    across: str
    up: str

    def x(self, value: float) -> float:
        return _LEFT + _SIDE * self._share(value)

    def y(self, value: float) -> float:
        return _TOP + _SIDE * (1 - self._share(value))

    def picture(self, marks: Sequence[str], name: str) -> str:
        low, high = self.ticks[0], self.ticks[-1]
        frame = [
            f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>',
            f'<line class="diagonal" x1="{self.x(low):g}" y1="{self.y(low):g}" '
            f'x2="{self.x(high):g}" y2="{self.y(high):g}"/>',
            _text(_LEFT + _SIDE / 2, _TOP + _SIDE + 36, self.across, "middle", "axis"),
            f'<text class="axis" text-anchor="middle" transform="translate(14 {_TOP + _SIDE / 2}) '
            f'rotate(-90)">{escape(self.up)}</text>',
        ]
        for tick in self.ticks:
            frame.append(_text(self.x(tick), _TOP + _SIDE + 18, f"{tick:g}", "middle"))
            frame.append(_text(_LEFT - 6, self.y(tick) + 4, f"{tick:g}", "end"))
        return _svg(_LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM, [*frame, *marks], name)

    def _share(self, value: float) -> float:
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


def _svg(width: float, height: float, marks: Sequence[str], name: str) -> str:
    inside = "\n".join(marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(name)}">\n{inside}\n</svg>'
    )


def _text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
