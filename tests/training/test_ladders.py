from __future__ import annotations

import argparse
import io
import json
from dataclasses import replace
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from schemas.errors import ConfigurationError
from schemas.manifest import AdapterManifest
from schemas.records import Prediction, Provenance
from tests.training.pictures import toy_picture
from training.demo import commands, judges, ladders
from training.demo.judges import BRISQUE_MISSING
from training.demo.ladder_report import frame_size, frames_of
from training.demo.ladders import LADDERS, Frame, Ladder, climb, frame, rungs, table
from training.demo.pictures import Photo

FRAMES = [Frame(f"photo-{seed}", toy_picture(seed)) for seed in range(6)]
# A photograph: stripes may become sharper again where a blur is as wide as they are.
UNTOUCHED = np.ascontiguousarray(data.chelsea()[::3, ::3])
LADDER = {ladder.name: ladder for ladder in LADDERS}


def _decoded(data: bytes):
    return np.asarray(Image.open(io.BytesIO(data)))


def _darkness(files) -> list[float]:
    return [255 - float(_decoded(file).mean()) for file in files]


def _by_darkness(files) -> list[Prediction]:
    return [Prediction(score=10 - dark / 30, exposure_expected=3 - dark / 128) for dark in _darkness(files)]


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: ladder.name)
def test_the_first_rung_is_the_photograph_and_the_others_move_further_and_further_away(
    ladder: Ladder,
) -> None:
    found = list(rungs([Frame("chelsea", UNTOUCHED)], ladder, seed=0))
    assert [rung.severity for rung in found] == list(ladder.severities)
    assert {rung.photograph for rung in found} == {"chelsea"}
    np.testing.assert_array_equal(_decoded(found[0].data), UNTOUCHED)
    distances = [float(np.square(_decoded(rung.data) - UNTOUCHED.astype(float)).mean()) for rung in found]
    assert all(nearer < further for nearer, further in pairwise(distances))


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: ladder.name)
def test_every_ladder_has_six_rungs_in_one_direction(ladder: Ladder) -> None:
    steps = np.diff(ladder.severities) * ladder.direction
    assert len(ladder.severities) == 6
    assert (steps > 0).all()


def test_there_are_ladders_of_what_training_uses_and_five_or_more_of_what_it_never_uses() -> None:
    families = [ladder.family for ladder in LADDERS]
    assert families.count("unseen") >= 5
    assert families.count("seen") >= 9
    assert len(LADDER) == len(LADDERS)


def test_every_rung_of_a_photograph_moves_in_the_same_direction() -> None:
    dot = np.zeros((61, 61, 3), np.uint8)
    dot[30, 30] = 255
    angles = []
    for rung in list(rungs([Frame("dot", dot)], LADDER["motion blur"], seed=3))[3:]:
        down, across = np.nonzero(_decoded(rung.data)[..., 0])
        angles.append(np.arctan2(*np.linalg.eigh(np.cov(across, down))[1][::-1, 1]) % np.pi)
    assert np.ptp(angles) < 0.1


def test_a_judge_that_sees_the_degradation_is_right_and_one_that_likes_it_is_wrong() -> None:
    found = climb(LADDER["underexposure"], FRAMES, _by_darkness, _darkness, seed=0)
    assert found.score is not None
    assert found.brisque is not None
    assert found.score.pooled.value == pytest.approx(found.brisque.pooled.value)
    assert found.score.within == found.attribute.within == found.brisque.within == pytest.approx(1)
    assert 0.9 < found.score.pooled.low <= found.score.pooled.high <= 1
    wrong = climb(LADDER["overexposure"], FRAMES, _by_darkness, _darkness, seed=0)
    assert wrong.score.within == wrong.brisque.within == pytest.approx(-1)
    assert wrong.score.pooled.value < 0


def test_the_lead_is_paired() -> None:
    same = climb(LADDER["underexposure"], FRAMES, _by_darkness, _darkness, seed=0).lead
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0))
    opposite = climb(
        LADDER["underexposure"], FRAMES, _by_darkness, lambda files: [-m for m in _darkness(files)], seed=0
    )
    assert opposite.lead.low > 0


def test_brisque_is_compared_with_the_clarity_on_its_own_ladders_and_with_the_score_on_others() -> None:
    def torn(files) -> list[Prediction]:
        # The score sees every degradation that darkens, the attributes see it upside down.
        return [
            Prediction(score=10 - dark / 30, image_clarity_expected=dark, exposure_expected=dark)
            for dark in _darkness(files)
        ]

    darker = LADDER["underexposure"]
    by_clarity = replace(darker, attribute="image_clarity")
    assert climb(darker, FRAMES, torn, _darkness, seed=0).lead.value == pytest.approx(0)
    found = climb(by_clarity, FRAMES, torn, _darkness, seed=0)
    assert found.lead.value == pytest.approx(found.attribute.pooled.value - found.brisque.pooled.value)
    assert found.lead.high < 0
    rows = table([climb(darker, FRAMES, torn, _darkness, 0), found]).splitlines()
    assert rows[0].endswith("| clarity or score − BRISQUE |")
    assert [row.split("|")[-2].split()[0] for row in rows[3:5]] == ["score", "clarity"]
    assert climb(by_clarity, FRAMES, _by_darkness, _darkness, seed=0).lead is None


def test_pooled_asks_for_marks_that_compare_across_photographs_and_within_does_not() -> None:
    def aloof(files) -> list[Prediction]:
        # Every photograph on a range of its own, best to worst within it.
        return [Prediction(score=9 - number // 6 - number % 6 / 10) for number in range(len(files))]

    found = climb(LADDER["JPEG"], FRAMES, aloof, None, seed=0).score
    assert found.within == pytest.approx(1)
    assert 0 < found.pooled.value < 0.5


def test_a_judge_that_always_says_the_same_ranks_nothing() -> None:
    found = climb(LADDER["noise"], FRAMES, lambda files: [Prediction(score=5.0)] * len(files), None, seed=0)
    assert found.score.pooled.value is None
    assert found.score.within == 0
    assert "none: all the same" in table([found])


def test_an_answer_that_the_adapter_does_not_give_is_a_dash() -> None:
    found = climb(LADDER["noise"], FRAMES, lambda files: [Prediction()] * len(files), _darkness, seed=0)
    assert (found.score, found.attribute, found.lead) == (None, None, None)
    assert found.brisque is not None
    silent = climb(LADDER["noise"], FRAMES, _by_darkness, lambda files: [None] * len(files), seed=0)
    assert silent.brisque is None
    assert "| – |" in table([silent])


def test_the_table_sets_seen_and_unseen_apart_and_says_that_brisque_is_missing() -> None:
    climbs = [climb(LADDER[name], FRAMES, _by_darkness, _darkness, 0) for name in ("haze", "underexposure")]
    lines = table(climbs).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "**as in training**", "underexposure", "**never in training**", "haze",
    ]  # fmt: skip
    assert "| BRISQUE |" in lines[0]
    assert "-0.7, -1.4, -2.1, -2.8, -3.5 (EV)" in lines[3]
    assert "exposure " in lines[3]
    without = table([climb(LADDER["haze"], FRAMES, _by_darkness, None, 0)], BRISQUE_MISSING)
    assert BRISQUE_MISSING in without.splitlines()[0]
    assert without.splitlines()[-1].endswith("| – | – | – |")
    assert {line.count("|") for line in [*lines, *without.splitlines()]} == {7}


def test_few_photographs_give_figures_without_intervals() -> None:
    found = climb(LADDER["haze"], FRAMES[:2], _by_darkness, _darkness, 0)
    assert "[" not in table([found])


def test_a_frame_is_the_centre_in_the_wanted_aspect() -> None:
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 255
    # The outermost pixels are interpolated with what lies beside the frame.
    assert frame(Image.fromarray(wide), (50, 50))[:, 2:-2].min() == 255
    assert frame(Image.fromarray(wide), (80, 60)).shape == (60, 80, 3)


def test_every_size_can_be_cut() -> None:
    for side in range(280, 420):
        assert frame(Image.new("RGB", (side, 240)), (280, 196)).shape == (196, 280, 3)
        assert frame(Image.new("RGB", (400, side)), (280, 196)).shape == (196, 280, 3)


def test_a_photograph_is_never_enlarged() -> None:
    assert frame(Image.new("RGB", (80, 60)), (80, 60)) is not None
    assert frame(Image.new("RGB", (79, 600)), (80, 60)) is None
    assert frame(Image.new("RGB", (800, 59)), (80, 60)) is None


def test_photographs_that_are_too_small_are_passed_over_and_no_more_read_than_needed() -> None:
    read = []

    def photographs():
        for number, side in enumerate((400, 100, 400, 400, 400)):
            read.append(number)
            yield Photo(str(number), Image.new("RGB", (side, side)))

    frames = frames_of(photographs(), (280, 196), fewest=2, most=2)
    assert [found.photograph for found in frames] == ["0", "2"]
    assert read == [0, 1, 2]
    assert len(frames_of(photographs(), (280, 196), fewest=2, most=None)) == 4


class _Scorer:
    """Stands in for a loaded scorer: darker is worse."""

    def __init__(self) -> None:
        manifest = resources.files("model.embedded").joinpath("adapter", "manifest.json")
        self.manifest = AdapterManifest.model_validate_json(manifest.read_text(encoding="utf-8"))
        self.provenance = Provenance("base", "fake", "0" * 64, "t", "digit_tree", "1", "cpu", "float32")

    score = staticmethod(_by_darkness)

    def describe(self) -> str:
        return "trained on SYNTHETIC degradations"


def _options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands.add_ladders(parser.add_subparsers().add_parser)
    return parser.parse_args(["ladders", *arguments])


@pytest.fixture
def fake_scorer(monkeypatch):
    monkeypatch.setattr(commands, "_scorer", lambda adapter: _Scorer())
    monkeypatch.setattr(judges, "load_brisque", lambda: None)


@pytest.mark.usefixtures("fake_scorer")
def test_the_command_prints_every_ladder_and_writes_json(tmp_path: Path, capsys, monkeypatch) -> None:
    short = (LADDER["underexposure"], LADDER["haze"])
    monkeypatch.setattr(ladders, "LADDERS", short)
    file = tmp_path / "ladders.json"
    options = _options("--split", "demo", "--photographs", "2", "--json", str(file))
    assert options.handler(options) == 0
    said = capsys.readouterr().out
    assert all(f"| {ladder.name} |" in said for ladder in short)
    assert "split demo, 6 photographs" in said
    width, height = frame_size(_Scorer().manifest.image)
    assert f"2 photographs, each at {width} × {height} px" in said
    assert BRISQUE_MISSING in said
    assert "not human taste" in said
    facts = json.loads(file.read_text(encoding="utf-8"))
    assert [ladder["name"] for ladder in facts["ladders"]] == [ladder.name for ladder in short]
    assert facts["photographs"] == ["scikit-image-astronaut", "scikit-image-chelsea"]
    assert {ladder["lead_of"] for ladder in facts["ladders"]} == {"score"}
    assert facts["ladders"][0]["brisque"] is None
    assert facts["ladders"][0]["score"]["pooled"]["value"] is not None


@pytest.mark.usefixtures("fake_scorer")
def test_more_photographs_than_there_are_is_an_error() -> None:
    options = _options("--split", "demo", "--photographs", "7")
    with pytest.raises(ConfigurationError, match="7 photographs are wanted, but only 6 have"):
        options.handler(options)


@pytest.mark.usefixtures("fake_scorer")
@pytest.mark.parametrize(("split", "count"), [("test", 4), ("train", 16), ("validation", 2)])
def test_ladders_can_be_climbed_by_photographs_of_ones_own(
    tmp_path: Path, capsys, monkeypatch, split: str, count: int
) -> None:
    monkeypatch.setattr(ladders, "LADDERS", (LADDER["haze"],))
    for number in range(20):
        Image.fromarray(toy_picture(number, 300, 400)).save(tmp_path / f"{number}.png")
    options = _options("--photos", str(tmp_path), "--split", split, "--photographs", "2")
    assert options.handler(options) == 0
    assert f"split {split}, {count} photographs" in capsys.readouterr().out


def test_wrong_options_are_told_all_at_once(tmp_path: Path) -> None:
    options = _options(
        "--photographs", "1", "--json", str(tmp_path), "--photos", str(tmp_path), "--split", "demo"
    )
    with pytest.raises(ConfigurationError) as caught:
        options.handler(options)
    assert len(caught.value.reasons) == 3
