"""Places where transformers' Qwen2-VL does needless work, done leaner; same numbers.

- Few queries against a long cache with grouped heads: transformers copies keys and values once per query
  head of a group. Here the heads of a group are stacked along the queries instead, and nothing is copied.
- The patch embedding is a ``Conv3d`` whose kernel is as large as its input, over two equal frames: one
  matrix product over one frame, which also takes uint8 pixels and then holds the normalisation.
- The vision tower attends image by image: all together (``model.packed_vision``).
- RMS norm is six operations, each a pass over memory: one; on a CPU, where that one is no faster, three.
- The vision tower's activation takes new memory for every operation: once.
- The layers of the language model (``model.decoder_layer``).

All are switched on by ``use_fast_paths``; tests hold them to transformers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRMSNorm, apply_rotary_pos_emb_vision

from model.decoder_layer import use_lean_layers
from model.packed_vision import attend_by_size, attend_inside, rotate
from model.patches import folded_normalisation

ATTENTION = "realqa_grouped_sdpa"
_FEW_QUERIES = 64
"""Beyond this the stacked mask would cost more than the copies of keys and values."""
_ALIGNMENT = 16
"""CUDA's attention kernels copy a mask whose rows do not begin at multiples of so many numbers."""


def use_fast_paths(model: Any) -> None:
    """Switch them on, for one ``Qwen2VLForConditionalGeneration``. Parameters and their names stay."""
    AttentionInterface.register(ATTENTION, grouped_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.model.language_model.config._attn_implementation = ATTENTION
    embedding = model.model.visual.patch_embed
    embedding.forward = MethodType(embed_patches, embedding)
    for block in model.model.visual.blocks:
        block.attn.forward = MethodType(attend_by_image, block.attn)
        block.mlp.act.forward = MethodType(quick_gelu, block.mlp.act)
    use_lean_layers(model.model.language_model)
    for module in model.model.language_model.modules():
        if isinstance(module, Qwen2VLRMSNorm):
            module.forward = MethodType(rms_norm, module)


def has_fast_paths(model: Any) -> bool:
    """Whether they are switched on."""
    return bool(model.model.language_model.config._attn_implementation == ATTENTION)


def additive_mask(sees: torch.Tensor, dtype: torch.dtype, group: int) -> torch.Tensor:
    """A mask as ``grouped_attention`` takes it in every layer of a pass, made once for all of them.

    Args:
        sees: (batch, 1, queries, keys) True = sees.
        dtype: Of the scores.
        group: Query heads of a key head.

    Returns:
        (batch, 1, queries, keys), to be added to the scores; few queries stand stacked, ``group`` times.
    """
    batch, _, queries, keys = sees.shape
    copies = group if queries <= _FEW_QUERIES else 1
    columns = -(-keys // _ALIGNMENT) * _ALIGNMENT
    room = torch.zeros(batch, 1, copies, queries, columns, dtype=dtype, device=sees.device)
    return room[..., :keys].masked_fill_(~sees[:, :, None], float("-inf")).flatten(2, 3)


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over shared key/value heads without copying them.

    Args:
        module: The attention layer.
        query: (batch, heads, queries, head dim).
        key: (batch, key heads, keys, head dim); query head i uses key head i // group.
        value: Likewise.
        attention_mask: (batch, 1, queries, keys), added to the scores, or True = sees; or from
            ``additive_mask``; None = causal.
        scaling: Of the scores; None = 1 / √head dim.
        options: transformers' further arguments (dropout, ...).

    Returns:
        (batch, queries, heads, head dim), and no weights.
    """
    batch, heads, queries, width = query.shape
    group = heads // key.shape[1]
    if attention_mask is None or group == 1 or queries > _FEW_QUERIES or module.training:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return found
    stacked = query.reshape(batch, key.shape[1], group * queries, width)
    is_stacked = attention_mask.shape[2] > queries
    mask = attention_mask if is_stacked else attention_mask.repeat(1, 1, group, 1)
    out = torch.nn.functional.scaled_dot_product_attention(stacked, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, heads, queries, width).transpose(1, 2), None


def embed_patches(embedding: Any, patches: torch.Tensor) -> torch.Tensor:
    """Patch embedding as one matrix product.

    Args:
        embedding: transformers' ``PatchEmbed``.
        patches: Of still images; (patches, channels · height · width) uint8 pixel values, or
            (patches, channels · 2 · height · width) normalised, where both frames of a patch are equal.

    Returns:
        (patches, embed dim).
    """
    weight = embedding.proj.weight
    if patches.dtype == torch.uint8:
        # Folded anew every time: far below a hundredth of what a micro-batch costs, and there is no fold to
        # forget when weights are trained, merged or swapped.
        folded, bias = folded_normalisation(weight)
        return torch.nn.functional.linear(patches.to(folded.dtype).sub_(128), folded, bias)
    frames = patches.to(weight.dtype).reshape(len(patches), *weight.shape[1:])
    return torch.nn.functional.linear(frames[:, :, 0].flatten(1), weight.sum(2).flatten(1))


def attend_by_image(
    attention: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    lengths: Sequence[int] | None = None,
    **_: Any,
) -> torch.Tensor:
    """Attention inside each image.

    Args:
        attention: transformers' ``VisionAttention``.
        hidden_states: (patches of all images, embed dim).
        cu_seqlens: (images + 1,) int32, where each image begins, and the end.
        position_embeddings: Cosine and sine, each (patches, head dim).
        lengths: Patches of every image, where the host knows them; None = ask the device.

    Returns:
        (patches, embed dim).
    """
    query_key, value = (
        attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1)).split([2, 1], 1)
    )
    if query_key.requires_grad:
        turned = apply_rotary_pos_emb_vision(*query_key.unbind(1), *position_embeddings)
    else:
        turned = rotate(query_key, *position_embeddings).unbind(1)
    query, key = turned
    scale: float = attention.scaling
    if lengths is None:
        found = attend_by_size(query, key, value[:, 0], scale, cu_seqlens.diff().tolist())
    else:
        found = attend_inside(query, key, value[:, 0], scale, lengths, cu_seqlens)
    projected: torch.Tensor = attention.proj(found.flatten(1))
    return projected


def rms_norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Root-mean-square norm of the last dimension."""
    if hidden.device.type == "cpu" and hidden.dtype == torch.float32 and not torch.is_grad_enabled():
        # torch has no kernel of its own here, and takes a pass over memory for each of its operations.
        squares = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square_()
        scale = squares.div_(hidden.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
        return (hidden * scale).mul_(norm.weight)
    return torch.nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def quick_gelu(activation: Any, hidden: torch.Tensor) -> torch.Tensor:
    """``x · σ(1.702 x)``, in one buffer unless something is to be learnt."""
    if torch.is_grad_enabled():
        found: torch.Tensor = type(activation).forward(activation, hidden)
        return found
    return (hidden * 1.702).sigmoid_().mul_(hidden)
