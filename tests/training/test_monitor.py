from __future__ import annotations

import torch
from torch import nn

from training.curves import LOSS, NCM, VALIDATION
from training.monitor import BestWeights, best_validation, curves_of, is_exhausted


def _history(*values: float) -> list[dict]:
    lines: list[dict] = [{"step": 1, LOSS: 3.0, NCM: 4.0, "learning_rate": 0.1}, {"step": 2, LOSS: 2.0}]
    return lines + [{"step": 10 * number, VALIDATION: value} for number, value in enumerate(values, 1)]


def test_curves_are_the_figures_that_are_plotted_and_that_a_run_has() -> None:
    assert curves_of(_history()) == {LOSS: ((1, 3.0), (2, 2.0)), NCM: ((1, 4.0),)}


def test_the_best_is_the_earliest_of_equal_ones_and_its_age_counts_validations() -> None:
    best = best_validation(_history(0.1, 0.5, 0.4, 0.5))
    assert best is not None
    assert (best.step, best.value, best.stale) == (20, 0.5, 2)
    assert best_validation(_history()) is None


def test_the_best_up_to_a_step_does_not_know_what_came_later() -> None:
    history = _history(0.1, 0.5, 0.9)
    steps = [best and best.step for best in (best_validation(history, until) for until in (9, 10, 25, 30))]
    assert steps == [None, 10, 20, 30]


def test_a_run_is_exhausted_after_so_many_validations_in_a_row_without_a_new_best() -> None:
    assert not is_exhausted(_history(0.5, 0.4), 2)
    assert is_exhausted(_history(0.5, 0.4, 0.3), 2)
    assert not is_exhausted(_history(0.5, 0.4, 0.6), 2)
    assert not is_exhausted(_history(0.5, 0.4, 0.3), None)
    assert not is_exhausted(_history(), 1)


def test_best_weights_come_back_and_only_those_still_wanted_stay(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[1].requires_grad_(False)
    weights = BestWeights(tmp_path / "best")
    for step in (10, 20, 30):
        with torch.no_grad():
            model[0].weight.fill_(step)
        weights.save(model, step, needed={20})
    assert sorted(file.name for file in (tmp_path / "best").iterdir()) == [
        "step-20.safetensors",
        "step-30.safetensors",
    ]
    frozen = model[1].weight.clone()
    weights.load(model, 20)
    assert (model[0].weight == 20).all()
    assert torch.equal(model[1].weight, frozen)
