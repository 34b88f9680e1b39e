"""The tower over packed images gives transformers' own numbers, from pixels on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

import model.packed_vision as packed_vision
from model.adapters import save_adapter
from model.fast_paths import attend_by_image, embed_patches, use_fast_paths
from model.lora import load_adapter_weights, merge_adapter
from model.packed_vision import attend_by_size, attend_inside, embed_images, pack, rotate
from model.patches import folded_normalisation, normalised
from model.unmerged import UnmergedAdapters
from tests.model.small_adapters import manifest, peft_model
from tests.model.teacher import random_images
from tests.model.tiny import tiny_model

CPU = torch.device("cpu")
# Equal neighbours, a lone one, equals that are no neighbours, and a ribbon.
GRIDS = ((4, 4), (4, 4), (8, 2), (6, 4), (4, 4), (2, 20))


def packed(model: Any) -> torch.Tensor:
    images = random_images(GRIDS)
    with torch.no_grad():
        return embed_images(model.model.visual, images.patches, GRIDS)


def transformers_own(model: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    grids = torch.tensor([[1, *grid] for grid in GRIDS])
    with torch.no_grad():
        return model.model.visual(random_images(GRIDS).pixel_values().to(dtype), grid_thw=grids).pooler_output


def lean(model: Any) -> Any:
    use_fast_paths(model)
    return model


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def test_layout_is_what_transformers_asks_the_device_for() -> None:
    grids = torch.tensor([[1, *grid] for grid in GRIDS])
    found = pack(GRIDS, 2, CPU)
    assert torch.equal(found.positions, get_vision_position_ids(grids, 2))
    assert torch.equal(found.ends, get_vision_cu_seqlens(grids))
    assert found.ends.dtype == torch.int32
    assert found.lengths == tuple(height * width for height, width in GRIDS)


@torch.no_grad()
def test_pixels_through_the_folded_embedding_equal_normalised_ones_through_the_convolution() -> None:
    embedding = tiny_model().model.visual.patch_embed
    patches = random_images(GRIDS).patches
    expected = embedding(normalised(patches))
    assert relative_error(embed_patches(embedding, patches), expected) < 1e-5


def test_in_bf16_folding_loses_no_more_than_transformers_does() -> None:
    embedding = tiny_model().model.visual.patch_embed
    patches = random_images([(40, 40)]).patches
    rounded = embedding.proj.weight.detach().to(torch.bfloat16)
    with torch.no_grad():
        embedding.proj.weight.copy_(rounded)
        exact = embedding(normalised(patches))
        embedding.to(torch.bfloat16)
        theirs = relative_error(embedding(normalised(patches)), exact)
        ours = relative_error(embed_patches(embedding, patches), exact)
    assert 1e-4 < theirs < 1e-2
    # It rounds the folded weight once more, and the pixels not at all: one outweighs the other within 4 %.
    assert ours < 1.1 * theirs


def test_pixels_less_128_are_exact_in_every_number_format() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert torch.equal((levels.to(dtype) - 128).long(), levels.long() - 128)


def test_every_channel_has_its_own_mean_and_deviation() -> None:
    weight = torch.randn(5, 3, 2, 14, 14, generator=torch.Generator().manual_seed(0))
    folded, bias = folded_normalisation(weight)
    for channel in range(3):
        colour = torch.zeros(1, 3, 196, dtype=torch.uint8)
        colour[:, channel] = 200
        patch = colour.flatten(1)
        expected = torch.nn.functional.linear(normalised(patch), weight.flatten(1))
        found = torch.nn.functional.linear(patch.float() - 128, folded, bias)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_the_tower_equals_transformers_own() -> None:
    expected = transformers_own(tiny_model())
    assert expected.std() > 0.1
    torch.testing.assert_close(packed(lean(tiny_model())), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most_patches", [1, 16, 40, 56, 1000])
def test_on_a_cpu_few_images_go_at_a_time_and_find_the_same(
    most_patches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, together, seen = lean(tiny_model()), [], []
    whole = packed(model)
    embed = packed_vision._embed

    def watched(visual: Any, patches: torch.Tensor, packing: Any) -> torch.Tensor:
        together.append(len(patches))
        seen.extend(packing.lengths)
        return embed(visual, patches, packing)

    monkeypatch.setattr(packed_vision, "_embed", watched)
    config = model.config.vision_config
    widest = max(588, config.embed_dim * max(3, config.mlp_ratio))
    monkeypatch.setattr(packed_vision, "_CPU_BYTES", most_patches * widest * 4)
    torch.testing.assert_close(packed(model), whole, rtol=1e-4, atol=1e-5)
    lengths = [height * width for height, width in GRIDS]
    assert seen == lengths
    # One that is larger goes alone; of two neighbours that fit together none does.
    assert all(count <= most_patches or count in lengths for count in together)
    assert all(one + other > most_patches for one, other in pairwise(together))


def test_in_bf16_the_tower_is_as_near_to_the_exact_one_as_transformers_own() -> None:
    exact_model = tiny_model().to(torch.bfloat16).float()
    exact = transformers_own(exact_model)
    theirs = relative_error(transformers_own(tiny_model().to(torch.bfloat16), torch.bfloat16), exact)
    ours = relative_error(packed(lean(tiny_model().to(torch.bfloat16))), exact)
    assert theirs > 1e-4
    assert ours < 1.2 * theirs


def test_the_fold_follows_weights_that_are_written_or_swapped() -> None:
    model, other = lean(tiny_model()), tiny_model(seed=1)
    theirs = other.model.visual.state_dict()
    before = packed(model)
    model.model.visual.load_state_dict(theirs)
    expected = transformers_own(other)
    torch.testing.assert_close(packed(model), expected, rtol=1e-4, atol=1e-5)
    assert (expected - before).abs().max() > 0.1
    third = tiny_model(seed=2)
    weights = dict(third.model.visual.named_parameters())
    for name, parameter in model.model.visual.named_parameters():
        parameter.data = weights[name].data
    torch.testing.assert_close(packed(model), transformers_own(third), rtol=1e-4, atol=1e-5)


# PEFT asks transformers for an attribute that transformers renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_fold_follows_adapters_that_take_turns(tmp_path: Path) -> None:
    """One of them trained the whole tower, the patch embedding with it."""
    kinds = {}
    for kind in ("full", "lora"):
        save_adapter(tmp_path / kind, peft_model(kind), None, manifest(kind))
        kinds[kind] = load_adapter_weights(tmp_path / kind)
    model = lean(tiny_model())
    adapters = UnmergedAdapters(model, kinds)
    for name in ("full", "lora", "full"):
        merged = tiny_model()
        merge_adapter(merged, kinds[name])
        with adapters.turn(name):
            torch.testing.assert_close(packed(model), transformers_own(merged), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rotation_equals_transformers_own(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(20, 2, 3, 16, generator=draw).to(dtype)
    angles = torch.randn(20, 8, generator=draw).repeat(1, 2)
    expected = apply_rotary_pos_emb_vision(*states.unbind(1), angles.cos(), angles.sin())
    found = rotate(states, angles.cos(), angles.sin())
    # The same arithmetic in float32; half precision rounds once, at the end.
    within = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=within, atol=1e-6)


def test_gradients_of_attention_equal_transformers_own() -> None:
    attention = tiny_model().model.visual.blocks[0].attn
    draw = torch.Generator().manual_seed(4)
    hidden = torch.randn(48, attention.dim, generator=draw)
    angles = torch.randn(48, attention.head_dim // 2, generator=draw).repeat(1, 2)
    ends = torch.tensor([0, 16, 32, 48], dtype=torch.int32)
    gradients = []
    for forward in (attention.forward, lambda *args, **kwargs: attend_by_image(attention, *args, **kwargs)):
        attention.zero_grad()
        out = forward(hidden, cu_seqlens=ends, position_embeddings=(angles.cos(), angles.sin()))
        out.square().sum().backward()
        gradients.append(attention.qkv.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_the_kernel_for_packed_sequences_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes alone: it runs on CUDA only."""
    monkeypatch.setattr(packed_vision, "takes_packed", lambda query: True)
    model = lean(tiny_model()).to(torch.bfloat16).to("meta")
    calls = []
    kernel = packed_vision.varlen_attn

    def watched(query: torch.Tensor, *rest: Any, **options: Any) -> Any:
        calls.append(query.shape)
        return kernel(query, *rest, **options)

    monkeypatch.setattr(packed_vision, "varlen_attn", watched)
    there = torch.device("meta")
    patches = random_images(GRIDS).patches.to(there)
    found = embed_images(model.model.visual, patches, GRIDS)
    count = sum(height * width for height, width in GRIDS)
    assert found.shape == (count // 4, 64)
    assert calls == [(count, 2, 16)] * 2


def test_half_precision_on_a_cpu_is_attended_by_size() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(24, 2, 16, generator=draw).to(torch.bfloat16) for _ in range(3)]
    lengths, ends = (16, 8), torch.tensor([0, 16, 24], dtype=torch.int32)
    expected = attend_by_size(*parts, 0.25, lengths)
    assert torch.equal(attend_inside(*parts, 0.25, lengths, ends), expected)
    alone = attend_by_size(*(part[16:] for part in parts), 0.25, lengths[1:])
    torch.testing.assert_close(expected[16:], alone)
