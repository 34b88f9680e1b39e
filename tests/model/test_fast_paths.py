"""The lean paths give transformers' own numbers."""

from __future__ import annotations

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.decisions import ChoiceDecision
from model.decoding import SlotDecoder
from model.fast_paths import (
    additive_mask,
    attend_by_image,
    embed_patches,
    grouped_attention,
    quick_gelu,
    rms_norm,
    use_fast_paths,
)
from tests.model.teacher import random_images, setup, teacher_forced


class Layer(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


def test_grouped_attention_equals_transformers_with_copied_keys() -> None:
    draw = torch.Generator().manual_seed(0)
    layer = Layer().eval()
    query = torch.randn(2, 6, 5, 16, generator=draw)
    key, value = (torch.randn(2, 2, 11, 16, generator=draw) for _ in range(2))
    mask = torch.rand(2, 1, 5, 11, generator=draw) > 0.4
    mask[..., 0] = True
    ours, _ = grouped_attention(layer, query, key, value, mask, scaling=0.25)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.25)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("queries", [5, 70])
def test_a_mask_made_once_for_all_layers_gives_the_same(queries: int) -> None:
    draw = torch.Generator().manual_seed(1)
    layer = Layer().eval()
    query = torch.randn(2, 6, queries, 16, generator=draw)
    key, value = (torch.randn(2, 2, 11, 16, generator=draw) for _ in range(2))
    sees = torch.rand(2, 1, queries, 11, generator=draw) > 0.4
    sees[..., 0] = True
    mask = additive_mask(sees, torch.float32, 3)
    assert all(stride % 16 == 0 for stride in mask.stride()[:-1])
    ours, _ = grouped_attention(layer, query, key, value, mask, scaling=0.25)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, sees, scaling=0.25)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_patch_embedding_as_one_product_equals_the_convolution() -> None:
    embedding = setup().model.model.visual.patch_embed
    patches = random_images([(4, 4), (2, 6)]).pixel_values()
    theirs = embedding(patches)
    assert theirs.std() > 1
    torch.testing.assert_close(embed_patches(embedding, patches), theirs, rtol=1e-5, atol=1e-4)


def test_neighbours_of_one_size_attended_to_together_equal_transformers_loop_over_images() -> None:
    attention = setup().model.model.visual.blocks[0].attn
    draw = torch.Generator().manual_seed(4)
    # Equal neighbours, a lone one, and equals that are no neighbours.
    ends = torch.tensor([0, 16, 32, 48, 56, 72, 80], dtype=torch.int32)
    hidden = torch.randn(80, attention.dim, generator=draw)
    angles = torch.randn(80, attention.head_dim, generator=draw)
    positions = (angles.cos(), angles.sin())
    theirs = attention(hidden, cu_seqlens=ends, position_embeddings=positions)
    ours = attend_by_image(attention, hidden, ends, positions)
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learns", [True, False])
def test_rms_norm_in_fewer_operations_equals_transformers_six(learns: bool) -> None:
    norm = setup().model.model.language_model.norm
    with torch.no_grad():
        norm.weight.copy_(torch.randn(64, generator=torch.Generator().manual_seed(2)))
    hidden = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(3)) * 7
    hidden[1, 2] = 0  # what epsilon is for
    with torch.set_grad_enabled(learns):
        torch.testing.assert_close(rms_norm(norm, hidden), norm(hidden), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learns", [True, False])
def test_the_activation_in_one_buffer_equals_transformers_and_leaves_its_input(learns: bool) -> None:
    activation = setup().model.model.visual.blocks[0].mlp.act
    hidden = torch.randn(9, 32, generator=torch.Generator().manual_seed(5), requires_grad=learns)
    before = hidden.detach().clone()
    with torch.set_grad_enabled(learns):
        found = quick_gelu(activation, hidden)
    assert torch.equal(found, activation(hidden))
    assert torch.equal(hidden.detach(), before)
    assert found.requires_grad == learns


def test_switched_on_they_change_no_answer_and_forward_passes_still_work() -> None:
    plain, lean = setup(), setup()
    use_fast_paths(lean.model)
    images = random_images([(4, 6), (8, 8)])
    one, other = (SlotDecoder(made.model, made.prompt, made.program).decode(images) for made in (plain, lean))
    for a, b in zip(one.slots, other.slots, strict=True):
        if isinstance(a, ChoiceDecision) and isinstance(b, ChoiceDecision):
            torch.testing.assert_close(a.probabilities, b.probabilities, rtol=0, atol=1e-4)
    ids = [*plain.program.steps[0].forced]
    torch.testing.assert_close(
        teacher_forced(plain, images, 0, ids), teacher_forced(lean, images, 0, ids), rtol=0, atol=1e-4
    )
