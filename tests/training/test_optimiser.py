from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from tests.model.tiny import tiny_model
from tests.training.toy import toy_config
from training.optimiser import JointOptimiser, build_optimiser, muon_and_adamw


def _names(model, optimiser: torch.optim.Optimizer) -> set[str]:
    held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in held}


def test_every_trainable_weight_is_optimised_once_and_frozen_ones_never() -> None:
    for kind in ("adamw", "muon"):
        model = tiny_model()
        model.model.visual.requires_grad_(False)
        optimiser = build_optimiser(model, toy_config("base", optimiser=kind))
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        assert len({id(parameter) for parameter in parameters}) == len(parameters)
        assert _names(model, optimiser) == {n for n, p in model.named_parameters() if p.requires_grad}


def test_muon_takes_the_matrices_of_layers_and_leaves_embeddings_and_vectors() -> None:
    model = tiny_model()
    optimiser = build_optimiser(model, toy_config("base", optimiser="muon"))
    assert isinstance(optimiser, JointOptimiser)
    adamw, muon = (_names(model, part) for part in optimiser.parts)
    assert "model.language_model.layers.0.mlp.up_proj.weight" in muon
    assert "model.visual.blocks.0.attn.qkv.weight" in muon
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} <= adamw
    assert "model.visual.patch_embed.proj.weight" in adamw
    assert not any(name.endswith("bias") or "norm" in name for name in muon)


def test_of_the_two_only_the_one_that_has_weights_is_built() -> None:
    matrix, vector = torch.nn.Parameter(torch.eye(4)), torch.nn.Parameter(torch.ones(4))
    only_muon = muon_and_adamw([("layers.0.weight", matrix)], 0.1, 0.0)
    only_adamw = muon_and_adamw([("layers.0.bias", vector)], 0.1, 0.0)
    assert isinstance(only_muon, torch.optim.Muon)
    assert isinstance(only_adamw, torch.optim.AdamW)
    for optimiser, weight in ((only_muon, matrix), (only_adamw, vector)):
        before = weight.detach().clone()
        _stepped(optimiser, [weight], 1)
        assert not torch.equal(weight, before)


def test_eyes_with_a_rate_of_their_own_are_optimised_by_both_and_a_schedule_reaches_all() -> None:
    model = tiny_model()
    optimiser = build_optimiser(
        model, toy_config("base", optimiser="muon", learning_rate=0.1, vision_learning_rate=0.2)
    )
    assert isinstance(optimiser, JointOptimiser)
    language, vision = optimiser.parts
    assert all(".visual." in name for name in _names(model, vision))
    assert _names(model, language) | _names(model, vision) == {name for name, _ in model.named_parameters()}
    torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5)
    for part, rate in ((language, 0.05), (vision, 0.1)):
        assert isinstance(part, JointOptimiser)
        assert {group["lr"] for inner in part.parts for group in inner.param_groups} == {rate}


def test_vectors_are_not_decayed() -> None:
    optimiser = build_optimiser(tiny_model(), toy_config("base", weight_decay=0.1))
    for group in optimiser.param_groups:
        dims = {parameter.dim() >= 2 for parameter in group["params"]}
        assert dims == {group["weight_decay"] > 0}


def _stepped(optimiser: torch.optim.Optimizer, weights: list[torch.nn.Parameter], steps: int) -> None:
    for number in range(steps):
        for index, weight in enumerate(weights):
            weight.grad = torch.full_like(weight, 1.0 + number + index)
        optimiser.step()


def test_a_schedule_reaches_every_part_and_a_saved_state_goes_on_alike() -> None:
    def build() -> tuple[JointOptimiser, list[torch.nn.Parameter]]:
        weights = [torch.nn.Parameter(torch.eye(4)), torch.nn.Parameter(torch.ones(4))]
        parts = (
            torch.optim.Muon([weights[0]], lr=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([weights[1]], lr=0.1),
        )
        return JointOptimiser(parts), weights

    one, weights = build()
    schedule = torch.optim.lr_scheduler.LambdaLR(one, lambda step: 0.5**step)
    _stepped(one, weights, 2)
    schedule.step()
    assert [group["lr"] for part in one.parts for group in part.param_groups] == [0.05, 0.05]
    two, others = build()
    with torch.no_grad():
        for weight, other in zip(weights, others, strict=True):
            other.copy_(weight)
    two.load_state_dict(deepcopy(one.state_dict()))
    _stepped(one, weights, 2)
    _stepped(two, others, 2)
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other)


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(ValueError, match="optimiser"):
        toy_config("base", optimiser="sgd")
