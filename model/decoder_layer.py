"""A decoder layer of transformers' Qwen2-VL as slot decoding needs it: the same numbers for less work.

The last layer computes only those columns at which something is decided: of the others, later passes need
keys and values and nothing else. Sums and products are written over operands that nobody needs any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import silu
from transformers import AttentionInterface
from transformers.models.qwen2_vl.modeling_qwen2_vl import rotate_half

from model.cache import SlotCache


@dataclass(frozen=True)
class Wanted:
    """The columns of a pass that the last layer computes.

    Attributes:
        columns: Indices on the model's device, or a slice.
        mask: What they see, as the attention function takes it: (batch, 1, queries, keys), to be added.
    """

    columns: torch.Tensor | slice
    mask: torch.Tensor


def use_lean_layers(tower: Any) -> None:
    """Switch them on, for one ``Qwen2VLTextModel``. A pass takes ``wanted`` as a keyword argument."""
    *others, last = tower.layers
    for layer in others:
        layer.forward = MethodType(all_columns, layer)
    last.forward = MethodType(wanted_columns, last)


def all_columns(layer: Any, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
    """Forward of a layer that others follow; see ``wanted_columns``."""
    return wanted_columns(layer, hidden_states, **{**given, "wanted": None})


def wanted_columns(
    layer: Any, hidden_states: torch.Tensor, *, wanted: Wanted | None = None, **given: Any
) -> torch.Tensor:
    """Forward of one layer; transformers' own where keys and values do not go to a ``SlotCache``.

    Args:
        layer: transformers' ``Qwen2VLDecoderLayer``.
        hidden_states: (batch, columns, hidden size).
        wanted: The columns to compute; None = all.
        given: What transformers gives a layer.

    Returns:
        (batch, columns or wanted columns, hidden size).
    """
    if not isinstance(given.get("past_key_values"), SlotCache):
        found: torch.Tensor = type(layer).forward(layer, hidden_states, **given)
        return found
    kept, attended = _attend(layer, hidden_states, wanted, **given)
    between = attended.add_(kept)
    normed = layer.post_attention_layernorm(between)
    mlp = layer.mlp
    inner = silu(mlp.gate_proj(normed), inplace=True).mul_(mlp.up_proj(normed))
    return between.add_(mlp.down_proj(inner))


def _attend(
    layer: Any,
    hidden: torch.Tensor,
    wanted: Wanted | None,
    *,
    attention_mask: torch.Tensor,
    past_key_values: SlotCache,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The wanted columns, (batch, wanted, hidden size), as they came, and what attention adds to them."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    cosine, sine = position_embeddings
    key = _turned(_heads(attention, attention.k_proj(normed)), cosine, sine)
    value = _heads(attention, attention.v_proj(normed))
    keys, values = past_key_values.update(key, value, attention.layer_idx)
    mask = attention_mask
    if wanted is not None:
        hidden, normed, cosine, sine = (part[:, wanted.columns] for part in (hidden, normed, cosine, sine))
        mask = wanted.mask
    query = _turned(_heads(attention, attention.q_proj(normed)), cosine, sine)
    attend = AttentionInterface()[attention.config._attn_implementation]
    seen, _weights = attend(attention, query, keys, values, mask, scaling=attention.scaling)
    return hidden, attention.o_proj(seen.flatten(2))


def _heads(attention: Any, states: torch.Tensor) -> torch.Tensor:
    """(batch, columns, heads · head dim) → (batch, heads, columns, head dim)."""
    return states.view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)


def _turned(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (batch, heads, columns, head dim) by (batch, columns, head dim) each."""
    return (states * cosine[:, None]).addcmul_(rotate_half(states), sine[:, None])
