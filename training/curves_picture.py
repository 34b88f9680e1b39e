"""Curves of training runs as one SVG picture: no library, no script, nothing from the net."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

from training.curves import (
    LOSS,
    NCM,
    NCM_STAR_PRINTED,
    NCM_STAR_RENORMALISED,
    VALIDATION,
    Points,
    RunCurves,
)

TITLES = {
    LOSS: "loss of the answer's tokens",
    NCM: "NCM",
    NCM_STAR_PRINTED: "NCM* as printed: the true digit stays in the denominator",
    NCM_STAR_RENORMALISED: "NCM* renormalised over the other digits",
    VALIDATION: "SRCC on validation images (ring: weights kept)",
}

_WIDTH, _HEIGHT = 400, 220  # px, of a plot
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 22, 34, 46  # px around it
_COLUMNS = 2
_LINE, _MARGIN = 20, 14  # px, of the legend
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Told apart by colour-blind people too (Okabe and Ito); runs beyond them are dashed."""
_TICKS = 5
_MEANS = 20
"""A curve's running mean is over a twentieth of its steps: single steps are noise of small batches."""

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1c2430; }
text.title { font-weight: 600; }
.frame { fill: none; stroke: #9aa4b2; }
.grid { stroke: #e6e9ee; }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
polyline.steps { stroke-width: 1; stroke-opacity: .22; }
circle { fill: #fff; stroke-width: 1.8; }
circle.kept { fill: none; }
"""


def curves_svg(runs: Sequence[RunCurves]) -> str:
    """Draw every figure that any of the runs has, one plot a figure, one colour a run.

    Figures of single steps are drawn faintly, with their running mean; what validation measured, as it is.

    Args:
        runs: At least one, with a curve at least.
    """
    names = [name for name in TITLES if any(name in run.curves for run in runs)]
    legend_height = _LINE * len(runs) + _MARGIN
    width = _COLUMNS * (_LEFT + _WIDTH + _RIGHT)
    height = legend_height + math.ceil(len(names) / _COLUMNS) * (_TOP + _HEIGHT + _BOTTOM)
    marks = list(_legend(runs))
    for number, name in enumerate(names):
        x = number % _COLUMNS * (_LEFT + _WIDTH + _RIGHT)
        y = legend_height + number // _COLUMNS * (_TOP + _HEIGHT + _BOTTOM)
        marks.append(f'<g transform="translate({x} {y})">\n{_plot(name, runs)}\n</g>')
    inside = "\n".join(marks)
    said = f"Training curves of {', '.join(run.name for run in runs)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">\n<style>{_STYLE}</style>\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n'
        f'<defs><clipPath id="plot"><rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}"/>'
        f"</clipPath></defs>\n{inside}\n</svg>\n"
    )


def running_mean(points: Points, window: int) -> list[tuple[int, float]]:
    """Mean of every point and up to ``window - 1`` before it."""
    sums = [0.0, *accumulate(value for _, value in points)]
    starts = [max(0, end - window) for end in range(1, len(points) + 1)]
    return [
        (step, (sums[index + 1] - sums[start]) / (index + 1 - start))
        for index, ((step, _), start) in enumerate(zip(points, starts, strict=True))
    ]


def round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers that reach from ``low`` or below to ``high`` or above."""
    rough = (high - low) / _TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True, slots=True)
class _Axes:
    """A plot's frame: from step 0 to the last, and from the first tick to the last."""

    steps: int
    up: list[float]

    def place(self, step: float, value: float) -> tuple[float, float]:
        x = step / self.steps
        y = (value - self.up[0]) / (self.up[-1] - self.up[0])
        return _LEFT + _WIDTH * x, _TOP + _HEIGHT * (1 - y)

    def marks(self, title: str) -> Iterable[str]:
        yield _text(_LEFT, _TOP - 10, title, "start", "title")
        for value in self.up:
            y = self.place(0, value)[1]
            yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + _WIDTH}" y2="{y:.1f}"/>'
            yield _text(_LEFT - 6, y + 4, f"{value:.6g}", "end")
        for step in (tick for tick in round_ticks(0, self.steps) if tick <= self.steps):
            yield _text(self.place(step, self.up[0])[0], _TOP + _HEIGHT + 17, f"{step:.6g}", "middle")
        yield _text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 34, "optimiser steps", "middle")
        yield f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}"/>'


def _plot(name: str, runs: Sequence[RunCurves]) -> str:
    drawn = [(number, _finite(run.curves[name])) for number, run in enumerate(runs) if name in run.curves]
    smooth = {
        number: points if name == VALIDATION else running_mean(points, max(1, len(points) // _MEANS))
        for number, points in drawn
    }
    axes = _axes(name, [point for points in smooth.values() for point in points])
    lines: list[str] = []
    rings: list[str] = []
    for number, points in drawn:
        if name != VALIDATION:
            lines.append(_line(axes, points, number, "steps"))
        lines.append(_line(axes, smooth[number], number, "curve"))
        if name == VALIDATION:
            rings += _kept(axes, points, runs[number].best_step, number)
    inside = "\n".join(lines)
    return "\n".join([*axes.marks(TITLES[name]), f'<g clip-path="url(#plot)">\n{inside}\n</g>', *rings])


def _axes(name: str, points: Points) -> _Axes:
    steps, values = [step for step, _ in points] or [1], [value for _, value in points] or [0.0]
    # Errors are read against none at all; correlations against each other.
    low = min(values) if name == VALIDATION else min(0.0, *values)
    return _Axes(max(steps), round_ticks(low, max(values)))


def _line(axes: _Axes, points: Points, number: int, kind: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (axes.place(*point) for point in points))
    return f'<polyline class="{kind}" {_colour(number)} points="{places}"/>'


def _kept(axes: _Axes, points: Points, best_step: int | None, number: int) -> Iterable[str]:
    for step, value in points:
        x, y = axes.place(step, value)
        radius = 6 if step == best_step else 2
        kind = "kept" if step == best_step else "curve"
        yield (
            f'<circle class="{kind}" {_colour(number)} cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            f"<title>step {step}: {value:.4f}</title></circle>"
        )


def _legend(runs: Sequence[RunCurves]) -> Iterable[str]:
    for number, run in enumerate(runs):
        y = _MARGIN + _LINE * number
        yield f'<line {_colour(number)} stroke-width="3" x1="{_LEFT}" y1="{y}" x2="{_LEFT + 26}" y2="{y}"/>'
        yield _text(_LEFT + 34, y + 4, run.name, "start")


def _colour(number: int) -> str:
    dashes = ' stroke-dasharray="6 4"' if number >= len(_COLOURS) else ""
    return f'stroke="{_COLOURS[number % len(_COLOURS)]}"{dashes}'


def _finite(points: Points) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
