"""What the card says follows the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.records import Provenance
from training.bootstrap import Estimate
from training.config import shipped_config
from training.demo.card import CardFacts, Sources, decoder_words, licence_counts, write_card
from training.demo.dataset import PICTURES
from training.demo.eyes import EYES
from training.demo.ladder_report import LadderReport
from training.evaluation import Agreement, DecoderEvaluation, Evaluation, ScoreFigures, TargetEvaluation


def _decoder(name: str, srcc: float | None, rmse: float) -> DecoderEvaluation:
    figures = ScoreFigures(Estimate(srcc), Estimate(srcc), Estimate(rmse), Estimate(0.0))
    gap = ScoreFigures(*[Estimate(0.01, -0.02, 0.03)] * 4)
    return DecoderEvaluation(name, figures, None if name == "digit_tree" else gap)


@pytest.mark.parametrize(
    ("tree", "greedy", "said"),
    [
        ((0.9, 1.0), (0.8, 1.2), "`digit_tree` is best by both"),
        ((0.8, 1.0), (0.9, 1.2), "by SRCC it is **not** the best"),
        ((0.9, 1.2), (0.8, 1.0), "by RMSE it is **not** the best"),
        ((0.8, 1.2), (0.9, 1.0), "**not** the best here by either"),
    ],
)
def test_the_default_is_praised_only_for_what_it_is_best_at(tree, greedy, said: str) -> None:
    words = decoder_words((_decoder("digit_tree", *tree), _decoder("greedy", *greedy)), "digit_tree")
    assert said in words
    assert "`greedy` − `digit_tree`: RMSE +0.010 [-0.020, +0.030]" in words


def test_a_score_that_never_changes_tells_no_decoders_apart() -> None:
    words = decoder_words((_decoder("digit_tree", None, 1.0), _decoder("greedy", None, 1.1)), "digit_tree")
    assert "cannot be told apart" in words


def test_licences_are_counted_most_frequent_first() -> None:
    assert licence_counts(["a", "b", "b"]) == {"b": 2, "a": 1}
    assert list(licence_counts(["a", "b", "b"])) == ["b", "a"]


def _card(folder: Path, **changed) -> str:
    """As the card reads on one line."""
    one = Estimate(0.9)
    found = Evaluation(
        9, 9, (TargetEvaluation("score", 9, 9, Agreement(one, one, one), None, None),), (), (), 0
    )
    photos = changed.get("photos", False)
    facts = {
        "parameters": 3_000_000,
        "megabytes": 9.0,
        "train": Sources(10, None if photos else {"CC0": 10}, {"CC0": 5}, 9000),
        "evaluated": Sources(4, None if photos else {"CC0": 4}, {"CC0": 2}, PICTURES["test"]),
        "split": "test",
        "photos": False,
        "minutes": {"pictures": 1.0, "base": 2.0},
        "effort": 1.0,
        "threads": 2,
        "configs": tuple(shipped_config(name) for name in ("base", "demo_stage1", "demo_stage2")),
        "eyes": EYES,
        "stage1": found,
        "stage2": found,
        "ladders": LadderReport(
            Provenance("base", "fake", "0" * 64, "t", "digit_tree", "1", "cpu", "float32"),
            synthetic=True,
            photographs=("a", "b", "c"),
            size_px=(364, 280),
            brisque=False,
            climbs=(),
        ),
        "aims": (),
    }
    return " ".join(write_card(folder / "CARD.md", CardFacts(**{**facts, **changed})).split())


def test_the_full_run_of_the_catalogue_names_the_shortest_commands(tmp_path) -> None:
    card = _card(tmp_path)
    for command in (
        "demo --threads 2",
        "demo-data DIR",
        "evaluate ADAPTER DIR",
        "ladders --adapter ADAPTER --photographs 3",
    ):
        assert f"`python -m training {command}`" in card
    assert "**How the recipe was chosen.**" in card
    assert "3 minutes with 2 threads when this card was written" in card
    assert "## Figures on the test pictures" in card
    assert "degraded in five steps" in card
    assert "--photos" not in card


def test_commands_on_the_card_carry_the_options_of_the_run(tmp_path) -> None:
    sources = Sources(4, None, {"CC0": 2}, 60)
    card = _card(tmp_path, photos=True, split="validation", evaluated=sources, effort=0.1, threads=8)
    for command in (
        "demo --photos PHOTOS --effort 0.1 --threads 8 --validate",
        "demo-data DIR --split validation --photos PHOTOS --pictures 60",
        "evaluate ADAPTER DIR --split validation",
        "ladders --adapter ADAPTER --split validation --photos PHOTOS --photographs 3",
    ):
        assert f"`python -m training {command}`" in card
    assert "with 8 threads" in card


def test_of_other_photographs_the_card_tells_no_story_of_the_catalogues(tmp_path) -> None:
    card = _card(tmp_path, photos=True)
    assert "How the recipe was chosen" not in card
    assert "catalog.csv" not in card
    assert "10, of a folder (licences: the folder's)" in card


def test_the_card_says_which_split_its_figures_are_of(tmp_path) -> None:
    card = _card(tmp_path, split="validation")
    assert "## Figures on the validation pictures" in card
    assert "| | train | validation |" in card
    assert "Validation pictures hold no photograph" in card
    assert "Validation photographs without cut-outs" in card
    assert "test pictures" not in card.lower()


def test_one_thread_is_one(tmp_path) -> None:
    assert "with 1 thread when" in _card(tmp_path, threads=1)
