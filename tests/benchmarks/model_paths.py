"""What the model's own optimisations give, on any device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed

import model.packed_vision as packed_vision
from model.choices import decide_trie
from model.decoding import SlotDecoder
from model.fast_paths import embed_patches
from model.packed_vision import embed_images
from model.patches import normalised_patches
from tests.benchmarks.comparing import Bench, Comparison, Optimisation
from tests.benchmarks.swapping import (
    class_forward,
    copied_keys,
    no_fast_paths,
    norms,
    prefix_of_rows,
    swapped,
    vision_attentions,
    whole_last_layer,
)

_BATCH = "micro-batch"


def _pixels(bench: Bench, stack: ExitStack) -> Comparison:
    def normalised_on_host() -> Any:
        rows = [normalised_patches(torch.from_numpy(image.pixels)) for image in bench.images]
        patches = torch.cat(rows).to(bench.device)
        return bench.scorer.decoder.decode(replace(bench.batch, patches=patches))

    return Comparison(bench.decide, normalised_on_host)


def _patch_embedding(bench: Bench, stack: ExitStack) -> Comparison:
    embedding = bench.scorer.decoder.model.model.visual.patch_embed
    patches = bench.batch.pixel_values()
    inference = torch.inference_mode()
    return Comparison(
        inference(partial(embed_patches, embedding, patches)),
        inference(partial(PatchEmbed.forward, embedding, patches)),
    )


def _vision_attention(bench: Bench, stack: ExitStack) -> Comparison:
    tower = _tower(bench)
    return Comparison(tower, tower, lambda: class_forward(vision_attentions(bench.scorer.decoder)))


def _parts(bench: Bench, stack: ExitStack) -> Comparison:
    tower = _tower(bench)
    return Comparison(tower, tower, lambda: swapped(packed_vision, "_CPU_BYTES", sys.maxsize))


def _unfit_for_parts(bench: Bench) -> str | None:
    return None if bench.device.type == "cpu" else "elsewhere all images go together"


def _tower(bench: Bench) -> Callable[[], Any]:
    visual = bench.scorer.decoder.model.model.visual
    return torch.inference_mode()(partial(embed_images, visual, bench.batch.patches, bench.batch.grids))


def _grouped_attention(bench: Bench, stack: ExitStack) -> Comparison:
    return Comparison(bench.decide, bench.decide, lambda: copied_keys(bench.scorer.decoder))


def _last_layer(bench: Bench, stack: ExitStack) -> Comparison:
    return Comparison(bench.decide, bench.decide, lambda: whole_last_layer(bench.scorer.decoder))


def _norms(bench: Bench, stack: ExitStack) -> Comparison:
    return Comparison(bench.decide, bench.decide, lambda: class_forward(norms(bench.scorer.decoder)))


def _prefix(bench: Bench, stack: ExitStack) -> Comparison:
    decoder = bench.scorer.decoder
    in_every_row = partial(prefix_of_rows, decoder, len(bench.images))
    return Comparison(bench.decide, bench.decide, lambda: swapped(decoder, "_shared_prefix", in_every_row))


def _all_fast_paths(bench: Bench, stack: ExitStack) -> Comparison:
    return Comparison(bench.decide, bench.decide, lambda: no_fast_paths(bench.scorer.decoder))


def _merged(bench: Bench, stack: ExitStack) -> Comparison:
    plain = bench.scorer.decoder
    unmerged = SlotDecoder(bench.built.unmerged(), plain.prompt, plain.program, plain.score_head)
    return Comparison(partial(plain.decode, bench.batch), partial(unmerged.decode, bench.batch))


def _decided_columns(bench: Bench, stack: ExitStack) -> Comparison:
    decoder = bench.scorer.decoder
    fed = decoder._pass

    def with_all_logits(*arguments: Any) -> torch.Tensor:
        *others, wanted = arguments
        hidden = fed(*others, slice(None))
        decoder.model.lm_head(hidden)
        return hidden[:, wanted]

    # Both sides compute all columns in the last layer: that is another row.
    stack.enter_context(whole_last_layer(decoder))
    return Comparison(bench.decide, bench.decide, lambda: swapped(decoder, "_pass", with_all_logits))


def _format_mass(bench: Bench, stack: ExitStack) -> Comparison:
    decoder = bench.scorer.decoder
    head = decoder.model.lm_head.weight
    layouts = [layout for layout in decoder.layouts if layout.branch_sizes]
    hidden = [
        torch.randn(len(bench.images), len(one.branch_sizes), head.shape[1]).to(head) for one in layouts
    ]
    allowed = [head[layout.edge_token.unique()] for layout in layouts]

    @torch.inference_mode()
    def whole_vocabulary() -> None:
        for layout, states in zip(layouts, hidden, strict=True):
            decide_trie(decoder._logits(states), layout)

    @torch.inference_mode()
    def allowed_only() -> None:
        for states, rows in zip(hidden, allowed, strict=True):
            linear(states, rows).float().log_softmax(2)

    return Comparison(whole_vocabulary, allowed_only)


def _together(bench: Bench, stack: ExitStack) -> Comparison:
    def one_by_one() -> None:
        for image in bench.images:
            bench.scorer.decide([image])

    return Comparison(bench.decide, one_by_one)


MODEL_PATHS = (
    Optimisation(
        "uint8 pixels, normalisation folded into the patch embedding",
        "normalised to float on the host, by the calling thread",
        _BATCH,
        _pixels,
        "8 times fewer bytes to the device",
    ),
    Optimisation("patch embedding as one linear layer", "`Conv3d`", "patch embedding", _patch_embedding),
    Optimisation(
        "attention over packed images", "transformers' loop over images", "vision tower", _vision_attention
    ),
    Optimisation(
        "few images at a time through the vision tower (on a CPU)", "the whole micro-batch", "vision tower",
        _parts, "18.2 → 17.2 ms an image: 1.06", _unfit_for_parts,
    ),
    Optimisation(
        "grouped attention without copies", "transformers', which copies keys and values", _BATCH,
        _grouped_attention, "transformers copies K and V 6–7 times",
    ),
    Optimisation(
        "last layer of the language model where something is decided", "in all columns", _BATCH, _last_layer,
        "4–5 % (embedded model, 4 layers)",
    ),
    Optimisation("RMS norm in one operation (three on a CPU)", "six operations", _BATCH, _norms),
    Optimisation(
        "prefix shared by all rows", "prefix computed in every row", _BATCH, _prefix,
        "10.6 → 8.4 ms an image (7B, 256 tokens): 1.26",
    ),
    Optimisation(
        "all of `model.fast_paths`", "slot decoding on transformers' own model", _BATCH, _all_fast_paths
    ),
    Optimisation("adapter merged", "adapter beside the base (`model.unmerged`)", _BATCH, _merged),
    Optimisation("logits of decided columns", "logits of all columns", _BATCH, _decided_columns),
    Optimisation(
        "format mass: softmax over the whole vocabulary", "logits of allowed tokens only",
        "output head of all slots", _format_mass,
    ),
    Optimisation("micro-batch", "one image at a time", _BATCH, _together),
)  # fmt: skip
