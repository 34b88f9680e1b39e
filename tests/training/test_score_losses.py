from __future__ import annotations

import math

import pytest
import torch

from model.scores import class_of, class_values, score_text
from schemas.manifest import ScoreScale
from training.config import ScoreLoss
from training.score_losses import fidelity_loss, score_loss, soft_targets

SOFT = ScoreScale(head="soft_levels")
ENDS = torch.tensor(class_values(SOFT))
PLAIN = ScoreLoss()
UNKNOWN = torch.tensor([float("nan")])


def test_levels_and_bins_stand_for_the_middles_of_equal_parts_and_soft_levels_reach_from_end_to_end() -> None:
    assert class_values(ScoreScale(head="levels")) == (1, 3, 5, 7, 9)
    assert class_values(ScoreScale(head="bins", bins=4)) == (1.25, 3.75, 6.25, 8.75)
    assert class_values(SOFT) == (0, 2.5, 5, 7.5, 10)
    assert class_values(ScoreScale(head="mlp")) == ()


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (0, "bad"),
        (2, "bad"),
        (2.01, "poor"),
        (5, "fair"),
        (8, "good"),
        (8.01, "excellent"),
        (10, "excellent"),
    ],
)
def test_a_level_is_the_fifth_of_the_range_that_holds_the_score(score: float, word: str) -> None:
    assert score_text(score, ScoreScale(head="levels")) == word


def test_a_soft_level_is_the_nearest() -> None:
    assert [class_of(score, SOFT) for score in (1.2, 1.3, 6.2, 10)] == [0, 1, 2, 4]


@pytest.mark.parametrize("score", [1.3, 2.5, 4.0, 5.0, 6.1, 7.5, 8.7])
@pytest.mark.parametrize("std", [0.8, 1.5, 2.5])
def test_soft_targets_are_distributions_that_keep_the_mean(score: float, std: float) -> None:
    (found,) = soft_targets(
        torch.tensor([score]).double(), torch.tensor([std]).double(), ENDS.double(), keep_mean=True
    )
    assert float(found.sum()) == pytest.approx(1)
    assert bool((found >= 0).all())
    assert float(found @ ENDS.double()) == pytest.approx(score, abs=0.25)


@pytest.mark.parametrize(
    ("head", "classes", "std"),
    [("soft_levels", 5, 1.2), ("bins", 20, 0.8), ("bins", 20, 1.2), ("bins", 50, 0.8)],
)
def test_soft_targets_are_as_wide_as_opinions_are(head: str, classes: int, std: float) -> None:
    values = torch.tensor(class_values(ScoreScale(head=head, bins=classes))).double()
    scores = torch.linspace(3, 7, 41).double()
    found = soft_targets(scores, torch.full_like(scores, std), values, keep_mean=False)
    step = float(values[1] - values[0])
    spread = (found * (values - scores[:, None]) ** 2).sum(1).sqrt()
    # A class stands for all of its interval: that is so much wider.
    assert torch.allclose(spread, torch.full_like(spread, math.hypot(std, step / 12**0.5)), rtol=0.15)
    assert torch.allclose(found @ values, scores, atol=0.1 * step)


def test_a_wider_opinion_is_a_wider_target() -> None:
    values = ENDS.double()
    narrow, wide = soft_targets(
        torch.tensor([5.0, 5.0]).double(), torch.tensor([0.8, 2.5]).double(), values, keep_mean=True
    )
    assert float(narrow[2]) > float(wide[2]) + 0.2
    assert torch.allclose(wide, wide.flip(0))


@pytest.mark.parametrize(
    ("score", "expected"), [(0.0, [1, 0, 0, 0, 0]), (6.0, [0, 0, 0.6, 0.4, 0]), (10.0, [0, 0, 0, 0, 1])]
)
def test_without_a_deviation_a_label_lies_between_its_two_neighbours(
    score: float, expected: list[float]
) -> None:
    (found,) = soft_targets(torch.tensor([score]), torch.tensor([0.0]), ENDS, keep_mean=True)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_soft_levels_cost_nothing_but_their_own_entropy_where_the_prediction_is_the_target() -> None:
    score, std = torch.tensor([6.0]), UNKNOWN
    target = soft_targets(score, torch.tensor([0.0]), ENDS, keep_mean=True)
    right = score_loss(target.clamp_min(1e-9).log(), score, std, SOFT, PLAIN)
    unwritten = score_loss((target * 0.1).clamp_min(1e-9).log(), score, std, SOFT, PLAIN)
    wrong = score_loss(target.flip(1).clamp_min(1e-9).log(), score, std, SOFT, PLAIN)
    assert float(right) == pytest.approx(0, abs=1e-5)
    # The levels' own probabilities are right, and nine tenths of what would be written are other words.
    assert float(unwritten) == pytest.approx(math.log(10), abs=1e-4)
    assert float(wrong) > 1


def test_hard_bins_are_cross_entropy_of_the_bin_that_holds_the_label() -> None:
    scale = ScoreScale(head="bins", bins=4)
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    loss = score_loss(logits, torch.tensor([4.9]), UNKNOWN, scale, PLAIN)
    assert float(loss) == pytest.approx(-float(logits.log_softmax(1)[0, 1]))


def test_soft_bins_follow_the_given_or_the_assumed_deviation() -> None:
    scale = ScoreScale(head="bins", bins=10)
    logits, score = torch.zeros(1, 10), torch.tensor([5.0])
    given = score_loss(logits, score, torch.tensor([1.2]), scale, ScoreLoss(soft_bins=True))
    assumed = score_loss(logits, score, UNKNOWN, scale, ScoreLoss(soft_bins=True, assumed_std=1.2))
    narrower = score_loss(logits, score, UNKNOWN, scale, ScoreLoss(soft_bins=True, assumed_std=0.6))
    assert float(given) == pytest.approx(float(assumed))
    assert float(narrower) > float(given)


@pytest.mark.parametrize("head", ["regression", "mlp"])
def test_one_number_is_taught_by_its_squared_error_in_points(head: str) -> None:
    loss = score_loss(
        torch.tensor([[0.5], [0.9]]),
        torch.tensor([7.0, 9.0]),
        UNKNOWN.expand(2),
        ScoreScale(head=head),
        PLAIN,
    )
    assert float(loss) == pytest.approx(2.0)


def test_fidelity_is_nothing_for_the_right_order_and_much_for_the_wrong_one() -> None:
    sure = torch.eye(5) * 0.96 + 0.008
    score, std = torch.tensor([0.0, 2.5, 5.0, 7.5, 10.0]), torch.zeros(5)
    right = float(fidelity_loss(sure, score, std, ENDS))
    wrong = float(fidelity_loss(sure.flip(0), score, std, ENDS))
    assert right < 0.05
    assert wrong > 0.7
    assert float(fidelity_loss(sure[:1], score[:1], std[:1], ENDS)) == 0


def test_fidelity_adds_to_the_loss_by_its_weight() -> None:
    logits = torch.full((2, 5), -math.log(5))
    score, std = torch.tensor([2.0, 8.0]), torch.tensor([1.0, 1.0])
    plain = score_loss(logits, score, std, SOFT, PLAIN)
    ranked = score_loss(logits, score, std, SOFT, ScoreLoss(fidelity=2.0))
    pairs = fidelity_loss(torch.full((2, 5), 0.2), score, std, ENDS)
    assert float(ranked) == pytest.approx(float(plain + 2 * pairs))
    # p = .5 said, nearly 1 true: 1 − √½
    assert float(pairs) == pytest.approx(1 - math.sqrt(0.5), abs=0.01)


def test_gradients_stay_finite_at_the_ends_of_the_scale() -> None:
    logits = torch.zeros(3, 5, requires_grad=True)
    score = torch.tensor([0.0, 10.0, 5.0])
    std = torch.tensor([2.0, 2.0, 1e-6])
    score_loss(logits.log_softmax(1), score, std, SOFT, ScoreLoss(fidelity=1.0)).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
