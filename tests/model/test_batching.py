"""The token budget of a GPU follows its free memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batching import MOST_GPU_TOKENS, ModelSize, RowSize, gpu_token_budget
from model.cache import SlotCache
from model.slots import ChoiceSlot, DecimalSlot, FreeTextSlot, SlotProgram, Step, Trie
from tests.model.teacher import setup

GB = 10**9
SEVEN_B = ModelSize(28, 3584, 18944, 2 * 4 * 128, 152064, 1280, 5120, 2)
ROW = RowSize(columns=290, decided=11)


def test_a_large_gpu_gets_the_most_and_a_small_one_less() -> None:
    assert gpu_token_budget(60 * GB, SEVEN_B, ROW, 640) == MOST_GPU_TOKENS
    # What 24 GB leave beside the weights: a few images, far from all that is free, far from one.
    assert 3_000 < gpu_token_budget(6 * GB, SEVEN_B, ROW, 256) < 8_000


def test_the_least_budget_is_one_token_as_an_image_too_large_for_it_goes_alone() -> None:
    assert gpu_token_budget(0, SEVEN_B, ROW, 256) == 1


@given(
    free=st.integers(0, 80 * GB),
    more=st.integers(0, 10 * GB),
    field=st.sampled_from(["layers", "hidden", "widest", "key_values", "vocabulary", "vision_hidden"]),
    tokens=st.sampled_from([64, 256, 1280]),
)
def test_more_memory_never_lowers_the_budget_and_a_larger_model_never_raises_it(
    free: int, more: int, field: str, tokens: int
) -> None:
    budget = gpu_token_budget(free, SEVEN_B, ROW, tokens)
    assert gpu_token_budget(free + more, SEVEN_B, ROW, tokens) >= budget
    larger = replace(SEVEN_B, **{field: getattr(SEVEN_B, field) * 2})
    assert gpu_token_budget(free, larger, ROW, tokens) <= budget
    assert gpu_token_budget(free, SEVEN_B, replace(ROW, columns=580), tokens) <= budget


def test_the_shape_read_from_a_model_counts_keys_and_values_as_the_cache_holds_them() -> None:
    model = setup().model
    size = ModelSize.of(model.config, 4)
    layer = model.model.language_model.layers[0].self_attn
    cache, columns = SlotCache(1, 7), 7
    heads = (layer.k_proj.out_features // layer.head_dim, layer.head_dim)
    for index in range(len(model.model.language_model.layers)):
        states = torch.zeros(1, heads[0], columns, heads[1])
        cache.update(states, states, index)
    held = sum(tensor.nbytes for tensor in (*cache._keys.values(), *cache._values.values()))
    assert held == columns * size.layers * size.key_values * size.number_bytes
    assert size.hidden == model.lm_head.in_features
    assert size.vocabulary == model.lm_head.out_features
    linears = [m for m in model.model.language_model.modules() if isinstance(m, torch.nn.Linear)]
    assert size.widest == max(linear.out_features for linear in linears)
    vision = [m for m in model.model.visual.blocks.modules() if isinstance(m, torch.nn.Linear)]
    assert size.vision_widest == max(linear.out_features for linear in vision)


def test_a_row_has_room_for_whatever_a_program_may_answer() -> None:
    trie = Trie(
        children=(((5, 1), (6, 2)), (), ((7, 3), (8, 4)), (), ()),
        parent=(-1, 0, 0, 2, 2),
        token=(-1, 5, 6, 7, 8),
        leaf_value=(-1, 0, -1, 1, 2),
        ends=frozenset(),
    )
    choice = ChoiceSlot("choice", ("a", "b", "c"), trie)
    score = DecimalSlot("score", 3, False, tuple(range(10, 20)), 20, 21)
    text = FreeTextSlot("text", 24, frozenset(), frozenset())
    program = SlotProgram("t", (Step((1, 2), choice), Step((3,), score), Step((4,), text)), (9,))
    row = RowSize.of(30, program)
    assert row.decided == 11
    assert row.columns >= 30 + 4 + len(program.steps) + 3 + 24


@pytest.mark.gpu
def test_a_full_micro_batch_fits_into_what_was_free() -> None:
    from model.scorer import Scorer
    from tests.model.test_scorer import photograph

    scorer = Scorer.load(device="cuda")
    image = scorer.prepare(photograph(0, (2000, 1500)))
    free, _ = torch.cuda.mem_get_info()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    scorer.predict([image] * (scorer.token_budget // image.visual_tokens))
    assert torch.cuda.max_memory_allocated() - before < free
