"""The sentence on decoders follows the figures."""

from __future__ import annotations

import pytest

from training.bootstrap import Estimate
from training.demo.card import decoder_words, licence_counts
from training.evaluation import DecoderEvaluation, ScoreFigures


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
