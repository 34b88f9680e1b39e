"""Lean decoder layers give transformers' own numbers, and the last one those of the wanted columns alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.cache import SlotCache
from model.decoder_layer import Wanted, use_lean_layers
from model.fast_paths import additive_mask
from tests.model.tiny import tiny_model

BATCH, PAST, COLUMNS = 2, 5, 7


@torch.no_grad()
def two_passes(tower: Any, wanted: torch.Tensor | slice | None) -> tuple[torch.Tensor, SlotCache]:
    """A causal pass, and one behind it in which every row lacks a column of the first one."""
    draw = torch.Generator().manual_seed(3)
    size = tower.config.hidden_size
    cache = SlotCache(BATCH, PAST + COLUMNS)
    sees = torch.ones(PAST + COLUMNS, PAST + COLUMNS, dtype=torch.bool).tril().repeat(BATCH, 1, 1, 1)
    sees[0, :, PAST:, 1] = False
    sees[1, :, PAST:, 3] = False
    hidden = torch.empty(0)
    for start, stop in ((0, PAST), (PAST, PAST + COLUMNS)):
        mask = sees[:, :, start:stop, :stop]
        more = {}
        if wanted is not None and start:
            more = {"wanted": Wanted(wanted, additive_mask(mask[:, :, wanted], torch.float32, 1))}
        hidden = tower(
            inputs_embeds=torch.randn(BATCH, stop - start, size, generator=draw),
            position_ids=torch.stack([torch.arange(start, stop) + shift for shift in (0, 2, 5)])[
                :, None
            ].repeat(1, BATCH, 1),
            attention_mask={"full_attention": additive_mask(mask, torch.float32, 1)},
            past_key_values=cache,
            use_cache=True,
            **more,
        ).last_hidden_state
        cache.advance(stop - start)
    return hidden, cache


def lean_tower() -> Any:
    tower = tiny_model().model.language_model
    use_lean_layers(tower)
    return tower


@pytest.mark.parametrize(
    "wanted", [None, torch.tensor([6, 1, 4]), slice(-1, None)], ids=["all", "some", "last"]
)
def test_wanted_columns_are_those_of_transformers_own_layers(wanted: torch.Tensor | slice | None) -> None:
    theirs, _ = two_passes(tiny_model().model.language_model, None)
    ours, _ = two_passes(lean_tower(), wanted)
    assert theirs.std() > 0.1
    expected = theirs if wanted is None else theirs[:, wanted]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_keys_and_values_of_all_columns_are_kept_whatever_is_wanted() -> None:
    _, theirs = two_passes(tiny_model().model.language_model, None)
    _, ours = two_passes(lean_tower(), slice(-1, None))
    for layer in theirs._keys:
        torch.testing.assert_close(ours._keys[layer], theirs._keys[layer], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours._values[layer], theirs._values[layer], rtol=1e-5, atol=1e-5)


def test_without_a_slot_cache_the_pass_is_transformers_own_and_learns() -> None:
    plain, lean = tiny_model().model.language_model, lean_tower()
    ids = torch.arange(6)[None]
    ours = lean(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.equal(ours, plain(input_ids=ids, use_cache=False).last_hidden_state)
    ours.sum().backward()
    assert lean.layers[-1].mlp.up_proj.weight.grad is not None
