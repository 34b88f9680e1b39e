from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from training.__main__ import main
from training.curves import CURVES, LOSS, SUMMARY_NAME, VALIDATION, RunCurves, points_of, read_runs
from training.curves_picture import TITLES, curves_svg, round_ticks, running_mean

_SVG = "{http://www.w3.org/2000/svg}"


def _write(folder: Path, name: str, curves: dict, best_step: int | None = None) -> Path:
    folder.mkdir()
    content = {
        "name": name,
        "curves": {key: points_of(points) for key, points in curves.items()},
        "best_step": best_step,
        "config": {"more": "that is not plotted"},
    }
    (folder / SUMMARY_NAME).write_text(json.dumps(content))
    return folder


def _drawn(svg: str, kind: str) -> list[ElementTree.Element]:
    return [mark for mark in ElementTree.fromstring(svg).iter() if mark.get("class") == kind]


def test_every_curve_has_a_title() -> None:
    assert tuple(TITLES) == CURVES


def test_runs_are_read_by_folder_or_file_and_told_apart_by_folder_where_names_are_the_same(tmp_path) -> None:
    loss = {LOSS: [(1, 2.0), (2, 1.5)]}
    one = _write(tmp_path / "one", "toy", loss, best_step=2)
    two = _write(tmp_path / "two", "toy", loss)
    three = _write(tmp_path / "three", "other", loss)
    runs = read_runs([one, two / SUMMARY_NAME, three])
    assert [run.name for run in runs] == [f"toy ({one})", f"toy ({two / SUMMARY_NAME})", "other"]
    assert runs[0].curves == loss
    assert runs[0].best_step == 2


def test_runs_that_cannot_be_read_are_all_named(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text('{"name": "old", "losses": []}')
    with pytest.raises(ConfigurationError) as caught:
        read_runs([tmp_path / "empty", tmp_path / "broken.json"])
    assert [str(tmp_path) in reason for reason in caught.value.reasons] == [True, True]


def test_a_picture_has_a_plot_a_figure_and_in_it_a_line_a_run() -> None:
    steps = [(step, 1 / step) for step in range(1, 101)]
    both = {LOSS: steps, VALIDATION: [(50, 0.2), (100, 0.4)]}
    runs = [RunCurves("<scratch>", both, best_step=100), RunCurves("initialised", {LOSS: steps}, None)]
    svg = curves_svg(runs)
    assert [text.text for text in _drawn(svg, "title")] == [TITLES[LOSS], TITLES[VALIDATION]]
    lines = [line for line in _drawn(svg, "curve") if line.tag == f"{_SVG}polyline"]
    assert len(lines) == 3
    assert len({line.get("stroke") for line in lines}) == 2
    assert len(_drawn(svg, "steps")) == 2
    assert [ring.find(f"{_SVG}title").text for ring in _drawn(svg, "kept")] == ["step 100: 0.4000"]
    assert "&lt;scratch&gt;" in svg


def test_more_runs_than_colours_are_dashed() -> None:
    runs = [RunCurves(str(number), {LOSS: [(1, 1.0), (2, 0.5)]}, None) for number in range(9)]
    marks = [(line.get("stroke"), line.get("stroke-dasharray")) for line in _drawn(curves_svg(runs), "curve")]
    assert len(set(marks)) == 9


def test_what_is_not_finite_is_left_out() -> None:
    svg = curves_svg([RunCurves("a", {LOSS: [(1, 1.0), (2, float("nan")), (3, 0.5)]}, None)])
    assert "nan" not in svg.lower().replace("initialised", "")
    assert len(_drawn(svg, "steps")[0].get("points").split()) == 2


def test_lines_run_from_the_first_step_at_the_left_down_to_low_values() -> None:
    svg = curves_svg([RunCurves("a", {LOSS: [(0, 10.0), (100, 0.0)]}, None)])
    (x1, y1), (x2, y2) = (
        map(float, place.split(",")) for place in _drawn(svg, "curve")[0].get("points").split()
    )
    frame = _drawn(svg, "frame")[0]
    left, top, width, height = (float(frame.get(side)) for side in ("x", "y", "width", "height"))
    assert (x1, y1, x2, y2) == (left, top, left + width, top + height)


def test_a_running_mean_looks_back_and_no_further_than_its_window() -> None:
    points = [(1, 4.0), (2, 2.0), (3, 0.0), (4, 8.0)]
    assert running_mean(points, 2) == [(1, 4.0), (2, 3.0), (3, 1.0), (4, 4.0)]
    assert running_mean(points, 1) == points


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 200, [0, 50, 100, 150, 200]), (-0.12, 0.31, [-0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4]), (3, 3, [3, 4])],
)
def test_ticks_are_round_and_reach_round_the_values(low, high, ticks) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_the_command_draws_runs_into_one_picture(tmp_path, capsys) -> None:
    runs = [_write(tmp_path / name, name, {LOSS: [(1, 1.0), (2, 0.5)]}) for name in ("a", "b")]
    assert main(["curves", *map(str, runs), "--output", str(tmp_path / "curves.svg")]) == 0
    assert "curves.svg" in capsys.readouterr().out
    assert len(_drawn((tmp_path / "curves.svg").read_text(), "curve")) == 2


def test_wrong_options_are_told_all_at_once(tmp_path, capsys) -> None:
    assert main(["curves", str(tmp_path / "none"), "--output", str(tmp_path / "no" / "curves.png")]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 3
    for part in ("does not end in .svg", "is no file in a folder", "there is no"):
        assert part in said
