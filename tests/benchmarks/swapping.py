"""Switches for measuring: something of the product is another thing for a while, and itself again afterwards.

The product has no switches for these: nobody wants it slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from itertools import cycle
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRMSNorm

from model.cache import SlotCache
from model.decoder_layer import Wanted, all_columns
from model.decoding import SlotDecoder
from model.fast_paths import ATTENTION, grouped_attention

_MISSING = object()


@contextmanager
def swapped(thing: Any, name: str, value: object) -> Iterator[None]:
    """Let an attribute of an object or a module be another; what the class gives comes back, too."""
    own = vars(thing).get(name, _MISSING)
    setattr(thing, name, value)
    try:
        yield
    finally:
        if own is _MISSING:
            delattr(thing, name)
        else:
            setattr(thing, name, own)


def results_of(thing: Any, name: str, run: Callable[[], object]) -> list[Any]:
    """What a method of an object returns in a run, call by call."""
    method, results = getattr(thing, name), []

    def keeping(*args: object, **options: object) -> Any:
        results.append(method(*args, **options))
        return copy(results[-1])

    with swapped(thing, name, keeping):
        run()
    return results


@contextmanager
def replayed(thing: Any, name: str, results: Sequence[Any]) -> Iterator[None]:
    """Let a method return what it returned in an earlier run, without doing anything."""
    turn = cycle(results)
    with swapped(thing, name, lambda *_, **__: copy(next(turn))):
        yield


@contextmanager
def class_forward(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give modules the ``forward`` of their class back, which is transformers' own."""
    own = {module: vars(module)["forward"] for module in modules}
    try:
        for module in own:
            del module.forward
        yield
    finally:
        for module, forward in own.items():
            module.forward = forward


@contextmanager
def linears(tower: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Let submodules be others, by name."""
    own = {name: tower.get_submodule(name) for name in modules}
    try:
        _place(tower, modules)
        yield
    finally:
        _place(tower, own)


def _place(tower: nn.Module, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        setattr(tower.get_submodule(parent), last, module)


@contextmanager
def copied_keys(decoder: SlotDecoder) -> Iterator[None]:
    """transformers' attention in the language model, which copies keys and values for every query head."""
    with swapped(decoder, "_group", 1):
        AttentionInterface.register(ATTENTION, sdpa_attention_forward)
        try:
            yield
        finally:
            AttentionInterface.register(ATTENTION, grouped_attention)


@contextmanager
def no_fast_paths(decoder: SlotDecoder) -> Iterator[None]:
    """transformers' own model under slot decoding: all of ``model.fast_paths`` off."""
    model = decoder.model.model
    config = model.language_model.config
    with ExitStack() as stack:
        stack.enter_context(class_forward([model.visual.patch_embed]))
        stack.enter_context(class_forward(vision_attentions(decoder)))
        stack.enter_context(class_forward(norms(decoder)))
        stack.enter_context(class_forward(block.mlp.act for block in model.visual.blocks))
        stack.enter_context(class_forward(model.language_model.layers))
        stack.enter_context(swapped(decoder, "_group", 1))
        config._attn_implementation = "sdpa"
        try:
            yield
        finally:
            config._attn_implementation = ATTENTION


@contextmanager
def whole_last_layer(decoder: SlotDecoder) -> Iterator[None]:
    """All columns in the last layer of the language model, also those where nothing is decided."""
    layer = decoder.model.model.language_model.layers[-1]

    def forward(hidden: torch.Tensor, *, wanted: Wanted | None = None, **given: Any) -> torch.Tensor:
        found = all_columns(layer, hidden, **given)
        return found if wanted is None else found[:, wanted.columns]

    with swapped(layer, "forward", forward):
        yield


def vision_attentions(decoder: SlotDecoder) -> list[nn.Module]:
    """Attention layers of the vision tower."""
    return [block.attn for block in decoder.model.model.visual.blocks]


def norms(decoder: SlotDecoder) -> list[nn.Module]:
    """RMS norms of the language model."""
    modules = decoder.model.model.language_model.modules()
    return [module for module in modules if isinstance(module, Qwen2VLRMSNorm)]


def prefix_of_rows(decoder: SlotDecoder, rows: int) -> SlotCache:
    """Keys and values of the prefix computed in every row, as if nothing were shared."""
    ids = torch.tensor([decoder.prompt.prefix], device=decoder.device).expand(rows, -1)
    length = ids.shape[1]
    cache = SlotCache(rows, length)
    sees = torch.ones(length, length, dtype=torch.bool, device=decoder.device).tril()
    decoder._forward(
        decoder.model.model.language_model.embed_tokens(ids),
        torch.arange(length, device=decoder.device).expand(3, rows, length),
        sees.expand(rows, 1, length, length),
        cache,
    )
    return cache
