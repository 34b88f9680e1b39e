"""Slot decoding: the answer of a whole batch, deciding only the values, over the allowed tokens only.

Forced text is fed as prefill; the batch goes through the program in step. A pass has the columns

    ragged     what differs in length by row: image and context at first, later the rest of a label
    forced     the step's forced tokens, the same for all rows
    cells      speculative trie nodes (``model.layout``)

Ragged columns are padded with masked cells, so rows of different image size and label length share a
batch, and a row's numbers do not depend on its neighbours. Positions follow Qwen2-VL's M-RoPE in closed
form: after an image of h × w merged cells they continue at start + max(h, w). They are always passed
explicitly; the model's own ``rope_deltas`` state is never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from model.buckets import bucket_columns, bucket_rows
from model.cache import SlotCache
from model.choices import decide_trie, digit_probabilities, log_sum
from model.conversation import Prompt
from model.decisions import (
    ChoiceDecision,
    DecimalDecision,
    Decisions,
    ReadoutDecision,
    TextDecision,
)
from model.decoder_layer import Wanted
from model.fast_paths import additive_mask, has_fast_paths
from model.graphs import RecordedSteps, Recorder
from model.layout import StepLayout
from model.packed_vision import embed_images
from model.ragged import ImageBatch, ragged_columns
from model.rows import Rows, first_rows
from model.slots import DecimalSlot, Ending, FreeTextSlot, ReadoutSlot, SlotProgram

_ALL = slice(None)


class SlotDecoder:
    """Runs one slot program on one model. Not thread-safe: one micro-batch at a time.

    Args:
        model: ``Qwen2VLForConditionalGeneration`` in eval mode with SDPA attention, adapter merged or not.
        prompt: The question.
        program: The compiled answer template.
        score_head: What reads the program's readout slot (``model.score_heads``); None where it has none.
        recorder: Records the passes behind the first and replays them (``model.graphs``). None = every pass
            is computed anew, as wide as it must be.

    Attributes:
        trims: Whether the columns of decided tokens are cut to the longest: that takes a look at the device.
    """

    def __init__(
        self,
        model: Any,
        prompt: Prompt,
        program: SlotProgram,
        score_head: nn.Module | None = None,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        if score_head is None and any(isinstance(step.slot, ReadoutSlot) for step in program.steps):
            raise ValueError(f"{program.template} has a readout slot, and there is no score head")
        self.model = model
        self.score_head = score_head
        self.prompt = prompt
        self.program = program
        self.device: torch.device = model.lm_head.weight.device
        leads = [prompt.closing, *[()] * len(program.steps)]
        self.layouts = [
            StepLayout((*lead, *step.forced), step.slot, self.device)
            for lead, step in zip(leads, program.steps, strict=False)
        ]
        self._merge = int(model.config.vision_config.spatial_merge_size)
        text = model.config.get_text_config()
        groups = text.num_attention_heads // text.num_key_value_heads
        self._group = groups if has_fast_paths(model) else 1  # transformers' own attention stacks no heads
        self._prefix: SlotCache | None = None
        # Columns cost time on a CPU, and looking at counts costs none; on a GPU it is the other way.
        self.trims = self.device.type == "cpu" and recorder is None
        # A free text asks the host at every token: what stands before the first one can be recorded.
        fixed = list(takewhile(lambda layout: not isinstance(layout.slot, FreeTextSlot), self.layouts))[1:]
        self._fixed = [] if recorder is None else fixed
        self._recorded = (
            RecordedSteps(recorder, self._take_fixed, self._addresses) if recorder and fixed else None
        )

    @torch.inference_mode()
    def decode(self, images: ImageBatch) -> Decisions:
        """Answer for every image of a micro-batch.

        Returns:
            Decisions on the model's device. With the fast paths on, nothing waits for the device until a free
            text, which does so at every token; what the host knows of the batch is copied to it twice.
        """
        image_embeds = self._embed_images(images)
        rows, ragged = self._start(images, image_embeds)
        self._take_step(rows, self.layouts[0], ragged)
        if self._recorded is not None:
            columns = bucket_columns(ragged.valid.shape[1]) - ragged.valid.shape[1]
            rows = self._recorded.run(rows.padded(rows.cache.batch, rows.cache.length + columns))
        for layout in self.layouts[1 + len(self._fixed) :]:
            self._take_step(rows, layout, self._pending_columns(rows))
        count = len(images.grids)
        return Decisions(first_rows(rows.decisions, count), rows.mass[:count])

    def _take_fixed(self, rows: Rows) -> None:
        for layout in self._fixed:
            self._take_step(rows, layout, self._pending_columns(rows))

    def _addresses(self) -> tuple[int, ...]:
        return tuple(parameter.data_ptr() for parameter in self.model.parameters())

    def _take_step(self, rows: Rows, layout: StepLayout, ragged: _Ragged) -> None:
        """Feed a step and decide its slot."""
        hidden = self._step_pass(rows, layout, ragged)
        slot = layout.slot
        if isinstance(slot, ReadoutSlot):
            rows.decisions.append(self._read_out(rows, hidden))
            return
        logits = self._logits(hidden)
        if isinstance(slot, FreeTextSlot):
            rows.decisions.append(self._write_text(rows, slot, logits[:, 0]))
        elif isinstance(slot, DecimalSlot):
            rows.decisions.append(self._decide_decimal(rows, layout, slot, logits))
        else:
            rows.decisions.append(self._decide_choice(rows, layout, logits))

    def _embed_images(self, images: ImageBatch) -> torch.Tensor:
        visual = self.model.model.visual
        if has_fast_paths(self.model):
            return embed_images(visual, images.patches, images.grids)
        grids = torch.tensor([[1, h, w] for h, w in images.grids], device=self.device)
        return visual(images.pixel_values().to(visual.get_dtype()), grid_thw=grids).pooler_output

    def _start(self, images: ImageBatch, image_embeds: torch.Tensor) -> tuple[Rows, _Ragged]:
        ragged = ragged_columns(images, self.prompt, self._merge, self.device)
        embeds = self.model.model.language_model.embed_tokens(ragged.ids)
        embeds.flatten(0, 1).index_copy_(0, ragged.image_cells, image_embeds.to(embeds.dtype))
        batch = len(ragged.ids)
        cache = self._cache(*ragged.ids.shape)
        cache.start_with(self._shared_prefix())
        valid = torch.zeros(batch, cache.capacity, dtype=torch.bool, device=self.device)
        valid[:, : cache.length].fill_(True)
        rows = Rows(
            cache=cache,
            valid=valid,
            position=ragged.next_position,
            pending=torch.zeros(batch, 0, dtype=torch.long, device=self.device),
            pending_count=torch.zeros(batch, dtype=torch.long, device=self.device),
            mass=torch.ones(batch, device=self.device),
        )
        return rows, _Ragged(embeds, ragged.positions, ragged.valid)

    def _cache(self, batch: int, width: int) -> SlotCache:
        """For passes that are recorded of a shape that many batches share; only they are padded to it."""
        columns = len(self.prompt.prefix) + self._program_columns()
        if self._recorded is None:
            return SlotCache(batch, columns + width)
        return SlotCache(bucket_rows(batch), columns + bucket_columns(width), self._recorded.storage)

    def _program_columns(self) -> int:
        return sum(layout.width + layout.tail_width + layout.extra_passes for layout in self.layouts)

    def _shared_prefix(self) -> SlotCache:
        """Keys and values of the prefix, computed once for one row."""
        if self._prefix is None:
            ids = torch.tensor([self.prompt.prefix], device=self.device)
            length = ids.shape[1]
            cache = SlotCache(1, length)
            positions = torch.arange(length, device=self.device).expand(3, 1, length)
            mask = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()[None, None]
            self._forward(self.model.model.language_model.embed_tokens(ids), positions, mask, cache)
            self._prefix = cache
        return self._prefix

    def _forward(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: SlotCache,
        wanted: torch.Tensor | slice = _ALL,
    ) -> torch.Tensor:
        """Feed columns; returns hidden states of the wanted ones, (batch, wanted, hidden size)."""
        is_lean = has_fast_paths(self.model) and wanted is not _ALL
        hidden = self.model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            # A dictionary is taken as it is: no mask of transformers' own, which knows no trees. Numbers to
            # be added: SDPA would turn booleans into them again in every layer.
            attention_mask={"full_attention": additive_mask(mask, embeds.dtype, self._group)},
            past_key_values=cache,
            use_cache=True,
            **({"wanted": self._wanted(wanted, mask, embeds.dtype)} if is_lean else {}),
        ).last_hidden_state
        cache.advance(embeds.shape[1])
        return hidden if is_lean else hidden[:, wanted]

    def _wanted(self, columns: torch.Tensor | slice, mask: torch.Tensor, dtype: torch.dtype) -> Wanted:
        return Wanted(columns, additive_mask(mask[:, :, columns], dtype, self._group))

    def _pass(
        self,
        rows: Rows,
        ragged: _Ragged,
        tokens: torch.Tensor,
        offsets: torch.Tensor,
        within: torch.Tensor,
        wanted: torch.Tensor | slice,
    ) -> torch.Tensor:
        """Feed ragged columns, then common ones at ``position + offsets``; returns the wanted hidden states.

        Args:
            rows: State; its cache grows, its ``valid`` gets the new columns.
            ragged: The columns that differ by row.
            tokens: (batch or 1, common) ids.
            offsets: (common,) positions from ``rows.position``.
            within: (common, common) who sees whom.
            wanted: Of all columns.
        """
        batch, lead = ragged.valid.shape
        common = tokens.shape[1]
        embeds = self.model.model.language_model.embed_tokens(tokens.expand(batch, common))
        text = (rows.position[:, None] + offsets[None]).expand(3, batch, common)
        past = rows.cache.length
        new_valid = torch.cat([ragged.valid, ragged.valid.new_ones(batch, common)], dim=1)
        new_mask = torch.ones(lead + common, lead + common, dtype=torch.bool, device=self.device).tril_()
        new_mask[lead:, lead:] = within
        rows.valid[:, past : past + lead + common] = new_valid
        seen = rows.valid[:, None, :past].expand(batch, lead + common, past)
        mask = torch.cat([seen, new_mask[None] & new_valid[:, None]], dim=2)[:, None]
        return self._forward(
            torch.cat([ragged.embeds, embeds], dim=1),
            torch.cat([ragged.positions, text], dim=2),
            mask,
            rows.cache,
            wanted,
        )

    def _pending_columns(self, rows: Rows) -> _Ragged:
        """The decided tokens that are still to be fed, as ragged columns; moves positions behind them."""
        if self.trims and rows.pending.shape[1] > 0:
            rows.pending = rows.pending[:, : int(rows.pending_count.max())]
        width = rows.pending.shape[1]
        steps = torch.arange(width, device=self.device)
        positions = (rows.position[:, None] + steps[None]).expand(3, -1, width)
        valid = steps[None] < rows.pending_count[:, None]
        rows.position = rows.position + rows.pending_count
        embeds = self.model.model.language_model.embed_tokens(rows.pending)
        return _Ragged(embeds, positions, valid)

    def _step_pass(self, rows: Rows, layout: StepLayout, ragged: _Ragged) -> torch.Tensor:
        """Feed a step; returns (batch, branches, width) hidden states where something is decided."""
        lead = ragged.valid.shape[1]
        decided = lead + layout.columns
        hidden = self._pass(rows, ragged, layout.tokens[None], layout.offsets, layout.within, decided)
        rows.position = rows.position + layout.forced_count
        return hidden

    def _read_out(self, rows: Rows, hidden: torch.Tensor) -> ReadoutDecision:
        assert self.score_head is not None  # seen to when this was made
        rows.pending = rows.pending[:, :0]
        rows.pending_count = torch.zeros_like(rows.pending_count)
        return ReadoutDecision(self.score_head(hidden[:, 0].float()))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(hidden).float()

    def _decide_trie(
        self, rows: Rows, layout: StepLayout, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decide a trie; returns (batch,) values and (batch, values) log-probabilities."""
        found = decide_trie(logits, layout)
        rows.mass = torch.minimum(rows.mass, found.mass)
        self._keep(rows, layout, found.value)
        return found.value, found.log_probabilities

    def _keep(self, rows: Rows, layout: StepLayout, value: torch.Tensor) -> None:
        """Keep the cells of the decided path, mask the others out; the rest of the value is pending."""
        end = rows.cache.length
        cells = layout.cell_table.shape[1]
        rows.valid[:, end - cells : end] = layout.cell_table[value]
        rows.position = rows.position + layout.fed_count[value]
        rows.pending = layout.tail_ids[value]
        rows.pending_count = layout.tail_count[value]

    def _decide_choice(self, rows: Rows, layout: StepLayout, logits: torch.Tensor) -> ChoiceDecision:
        value, log_probabilities = self._decide_trie(rows, layout, logits)
        return ChoiceDecision(value, log_probabilities.exp())

    def _decide_decimal(
        self, rows: Rows, layout: StepLayout, slot: DecimalSlot, logits: torch.Tensor
    ) -> DecimalDecision:
        pair, log_probabilities = self._decide_trie(rows, layout, logits)
        joint = log_probabilities.exp().reshape(-1, 10, 10)
        first = joint.sum(2)
        second = joint / first[:, :, None].clamp_min(torch.finfo(joint.dtype).tiny)
        digits = [pair // 10, pair % 10]
        ended = torch.zeros_like(pair, dtype=torch.bool)
        ids = layout.later_ids
        later = first.new_zeros(len(pair), slot.digits - 2, 10)
        for place in range(slot.digits - 2):
            full = self._feed_pending(rows)
            chosen = full[:, ids]
            mass = (log_sum(chosen) - log_sum(full)).exp()
            rows.mass = torch.where(ended, rows.mass, torch.minimum(rows.mass, mass))
            later[:, place] = digit_probabilities(chosen, ended)
            digit = chosen.argmax(1)
            ended = ended | (digit == 10)
            digits.append(digit.masked_fill(ended, -1))
            rows.pending = ids[digit][:, None]
            rows.pending_count = (~ended).long()
        return DecimalDecision(torch.stack(digits, 1), first, second, later)

    def _feed_pending(self, rows: Rows) -> torch.Tensor:
        """Feed one pending column; returns (batch, vocabulary) logits behind it."""
        ragged = self._pending_columns(rows)
        empty = rows.pending.new_zeros(0)
        within = empty.bool().reshape(0, 0)
        hidden = self._pass(rows, ragged, empty[None], empty, within, slice(-1, None))
        return self._logits(hidden[:, 0])

    def _write_text(self, rows: Rows, slot: FreeTextSlot, logits: torch.Tensor) -> TextDecision:
        """Write words greedily, all rows in step; rows that are done feed masked cells."""
        batch = logits.shape[0]
        stops = torch.tensor(sorted(slot.stops), dtype=torch.long, device=self.device)
        banned = torch.tensor(sorted(slot.banned), dtype=torch.long, device=self.device)
        done = torch.zeros(batch, dtype=torch.bool, device=self.device)
        kept = torch.full((batch,), slot.max_tokens, device=self.device)
        start = rows.cache.length
        written: list[torch.Tensor] = []
        for index in range(slot.max_tokens):
            token = logits.index_fill(1, banned, float("-inf")).argmax(1)
            done = done | torch.isin(token, stops)
            written.append(token.masked_fill(done, -1))
            if slot.ending is not None:
                kept = torch.minimum(kept, _before_ending(slot.ending, written, slot.max_tokens).to(kept))
                done = done | (kept < slot.max_tokens)
            rows.pending = token[:, None]
            rows.pending_count = (~done).long()
            if index + 1 == slot.max_tokens or bool(done.all()):
                break
            logits = self._feed_pending(rows)
        ids = torch.stack(written, 1)
        if slot.ending is not None:
            ids = self._take_back(rows, start, ids, kept)
        filler = ids.new_full((batch, slot.max_tokens - ids.shape[1]), -1)
        return TextDecision(torch.cat([ids, filler], 1))

    def _take_back(self, rows: Rows, start: int, ids: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Mask the ending that a row wrote, cells included: the next step forces it, the same for all rows.

        Args:
            rows: State; columns from ``start`` on are the tokens that were written and fed.
            start: See ``rows``.
            ids: (batch, written) the tokens.
            kept: (batch,) how many of them are the text.

        Returns:
            ``ids`` with -1 behind the text.
        """
        places = torch.arange(ids.shape[1], device=self.device)[None]
        fed = rows.valid[:, start : rows.cache.length]
        stays = fed & (places[:, : fed.shape[1]] < kept[:, None])
        rows.position = rows.position - (fed.sum(1) - stays.sum(1))
        rows.valid[:, start : rows.cache.length] = stays
        return ids.masked_fill(places >= kept[:, None], -1)


@dataclass(frozen=True)
class _Ragged:
    """Columns that differ by row: embeds (batch, width, hidden), positions (3, batch, width), valid."""

    embeds: torch.Tensor
    positions: torch.Tensor
    valid: torch.Tensor


def _before_ending(ending: Ending, written: Sequence[torch.Tensor], otherwise: int) -> torch.Tensor:
    """(batch,) on the host: tokens before a row's ending, ``otherwise`` where it has written none."""
    rows = [[token for token in row if token >= 0] for row in torch.stack(list(written), 1).tolist()]
    found = [ending.kept(row) for row in rows]
    return torch.tensor([otherwise if kept is None else kept for kept in found])
