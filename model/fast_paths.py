"""Four places where transformers' Qwen2-VL does needless work for slot decoding, done leaner; same numbers.

- Few queries against a long cache with grouped heads: transformers copies keys and values once per query
  head of a group. Here the heads of a group are stacked along the queries instead, and nothing is copied.
- The patch embedding is a ``Conv3d`` whose kernel is as large as its input, over two equal frames: one
  matrix product over one frame.
- The vision tower attends image by image: one call for all neighbours of the same size.
- RMS norm is six operations, each a pass over memory: one.

All are switched on by ``use_fast_paths``; tests hold them to transformers' own.
"""

from __future__ import annotations

from itertools import groupby
from types import MethodType
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRMSNorm, apply_rotary_pos_emb_vision

ATTENTION = "realqa_grouped_sdpa"
_FEW_QUERIES = 64
"""Beyond this the stacked mask would cost more than the copies of keys and values."""


def use_fast_paths(model: Any) -> None:
    """Switch them on, for one ``Qwen2VLForConditionalGeneration``. Parameters and their names stay."""
    AttentionInterface.register(ATTENTION, grouped_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.model.language_model.config._attn_implementation = ATTENTION
    embedding = model.model.visual.patch_embed
    embedding.forward = MethodType(embed_patches, embedding)
    for block in model.model.visual.blocks:
        block.attn.forward = MethodType(attend_by_image, block.attn)
    for module in model.model.language_model.modules():
        if isinstance(module, Qwen2VLRMSNorm):
            module.forward = MethodType(rms_norm, module)


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
        attention_mask: (batch, 1, queries, keys), added to the scores, or True = sees; None = causal.
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
    mask = attention_mask.repeat(1, 1, group, 1)
    out = torch.nn.functional.scaled_dot_product_attention(stacked, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, heads, queries, width).transpose(1, 2), None


def embed_patches(embedding: Any, patches: torch.Tensor) -> torch.Tensor:
    """Patch embedding as one matrix product.

    Args:
        embedding: transformers' ``PatchEmbed``.
        patches: (patches, channels · 2 · height · width) of still images: both frames of a patch are equal.

    Returns:
        (patches, embed dim).
    """
    weight = embedding.proj.weight
    frames = patches.to(weight.dtype).reshape(len(patches), *weight.shape[1:])
    return torch.nn.functional.linear(frames[:, :, 0].flatten(1), weight.sum(2).flatten(1))


def attend_by_image(
    attention: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """Attention inside each image; neighbours with the same number of patches go together.

    Args:
        attention: transformers' ``VisionAttention``.
        hidden_states: (patches of all images, embed dim).
        cu_seqlens: (images + 1,), where each image begins, and the end.
        position_embeddings: Cosine and sine, each (patches, head dim).

    Returns:
        (patches, embed dim).
    """
    states = attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
    states = (*apply_rotary_pos_emb_vision(*states[:2], *position_embeddings), states[2])
    attend = AttentionInterface().get_interface(attention.config._attn_implementation, sdpa_attention_forward)
    found, start = [], 0
    for length, images in groupby(cu_seqlens.diff().tolist()):
        count = len(list(images))
        query, key, value = (
            part[start : start + count * length].unflatten(0, (count, length)).transpose(1, 2)
            for part in states
        )
        out, _weights = attend(
            attention, query, key, value, None, scaling=attention.scaling, dropout=0.0, is_causal=False
        )
        found.append(out.flatten(0, 1).flatten(1))
        start += count * length
    projected: torch.Tensor = attention.proj(torch.cat(found))
    return projected


def rms_norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Root-mean-square norm of the last dimension, as one operation."""
    return torch.nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
