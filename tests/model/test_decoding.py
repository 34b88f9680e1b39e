"""Slot decoding against ordinary forward passes and against ``generate()``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
import torch

from model.decisions import (
    ChoiceDecision,
    DecimalDecision,
    Decisions,
    TextDecision,
    decided_values,
    written_ids,
)
from model.decoding import SlotDecoder
from model.ragged import ImageBatch
from model.slots import ChoiceSlot, DecimalSlot, FreeTextSlot, SlotProgram
from schemas.manifest import ScoreScale
from tests.model.reference import generate_under_mask
from tests.model.teacher import Setup, one_image, random_images, setup, teacher_forced

GRIDS = ((4, 6), (8, 8), (2, 10), (6, 4), (12, 2))
TOLERANCE = 1e-4
MEASURABLE = -20.0  # log-probability below which a context's share of the joint has lost its digits
SETTINGS = {
    "ours": {},
    "image first": {"instruction": "after_image"},
    "whole text": {"tokenisation": "whole_text"},
    "trimmed": {"scale": ScoreScale(trimmed=True)},
    "two digits": {"scale": ScoreScale(digits=2)},
    "five digits": {"scale": ScoreScale(digits=5, trimmed=True)},
    "mix": {"template": "mix"},
    "direct": {"template": "score_direct"},
}


def contexts(setup: Setup) -> list[tuple[int, ...]]:
    words = ("", "a red barn", "", "Nacht 10<|image_pad|>", "x")
    return [setup.encoder.encode(text) for text in words]


def decode(setup: Setup, images: ImageBatch) -> Decisions:
    return SlotDecoder(setup.model, setup.prompt, setup.program).decode(images)


def answer(program: SlotProgram, decisions: Decisions, row: int) -> list[int]:
    return program.answer_ids(decided_values(program, decisions, row), written_ids(program, decisions, row))


def position_of(program: SlotProgram, decisions: Decisions, row: int, index: int) -> int:
    """Where a slot's first token stands in a row's answer."""
    values, free = decided_values(program, decisions, row), written_ids(program, decisions, row)
    head = SlotProgram("", program.steps[:index], ())
    return len(head.answer_ids(values, free)) + len(program.steps[index].forced)


@pytest.mark.parametrize("name", SETTINGS)
def test_probabilities_equal_teacher_forced_forward_passes(name: str) -> None:
    made = setup(**SETTINGS[name])
    images = random_images(GRIDS, contexts=contexts(made))
    decisions = decode(made, images)
    for row in range(len(GRIDS)):
        check_row_by_forward_passes(made, images, decisions, row)


def check_row_by_forward_passes(made: Setup, images: ImageBatch, decisions: Decisions, row: int) -> None:
    ids = answer(made.program, decisions, row)
    for index, (step, decision) in enumerate(zip(made.program.steps, decisions.slots, strict=True)):
        start = position_of(made.program, decisions, row, index)
        if isinstance(step.slot, ChoiceSlot) and isinstance(decision, ChoiceDecision):
            expected = trie_by_forward_passes(made, images, row, ids[:start], step.slot)
            torch.testing.assert_close(decision.probabilities[row].log(), expected, rtol=0, atol=TOLERANCE)
        elif isinstance(step.slot, DecimalSlot) and isinstance(decision, DecimalDecision):
            check_decimal(made, images, row, ids[:start], step.slot, decision)


def trie_by_forward_passes(
    made: Setup, images: ImageBatch, row: int, before: list[int], slot: ChoiceSlot
) -> torch.Tensor:
    """Log-probability of every value: one whole forward pass a branching node."""
    trie = slot.trie
    found = torch.zeros(len(slot.values))
    for node in trie.branching:
        path: list[int] = []
        up = node
        while up > 0:
            path.insert(0, trie.token[up])
            up = trie.parent[up]
        edges = trie.children[node]
        logs = teacher_forced(made, images, row, [*before, *path])[-1]
        logs = logs[[token for token, _ in edges]].log_softmax(0)
        for value in range(len(slot.values)):
            for log, (_, child) in zip(logs, edges, strict=True):
                if child in trie.path(value):
                    found[value] += log
    return found


def check_decimal(
    made: Setup,
    images: ImageBatch,
    row: int,
    before: list[int],
    slot: DecimalSlot,
    decision: DecimalDecision,
) -> None:
    digit_ids = list(slot.digit_ids)
    first = teacher_forced(made, images, row, before)[-1][digit_ids].log_softmax(0)
    torch.testing.assert_close(decision.first[row].log(), first, rtol=0, atol=TOLERANCE)
    for digit in range(10):
        if first[digit] < MEASURABLE:
            continue
        second = teacher_forced(made, images, row, [*before, digit_ids[digit], slot.point_id])[-1]
        torch.testing.assert_close(
            decision.second[row, digit].log(), second[digit_ids].log_softmax(0), rtol=0, atol=TOLERANCE
        )
    written = [*before]
    for place in range(slot.digits):
        logs = teacher_forced(made, images, row, written)[-1]
        choices = [*digit_ids, slot.terminator] if slot.trimmed and place >= 2 else digit_ids
        best = int(logs[choices].argmax())
        if place >= 2:
            check_later(decision.later[row, place - 2], logs[choices])
        assert int(decision.digits[row, place]) == (best if best < 10 else -1)
        if best == 10:
            for rest in range(place + 1, slot.digits):
                assert decision.later[row, rest - 2].tolist() == [1.0] + [0.0] * 9
            break
        written += [digit_ids[best], *([slot.point_id] if place == 0 else [])]


def check_later(found: torch.Tensor, logits: torch.Tensor) -> None:
    """A digit behind greedy ones: ten probabilities, that of the end added to that of 0."""
    expected = logits.softmax(0)
    expected[0] += expected[10:].sum()
    torch.testing.assert_close(found, expected[:10], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", SETTINGS)
def test_format_mass_is_the_smallest_allowed_mass_of_the_decisions(name: str) -> None:
    made = setup(**SETTINGS[name])
    images = random_images(GRIDS, contexts=contexts(made))
    decisions = decode(made, images)
    for row in range(len(GRIDS)):
        ids = answer(made.program, decisions, row)
        logs = teacher_forced(made, images, row, ids)
        masses = []
        for place in range(len(ids)):
            allowed = made.program.allowed_after(ids[:place])
            assert allowed is not None
            if len(allowed) > 1:
                masses.append(float(logs[place][list(allowed)].exp().sum()))
        assert float(decisions.format_mass[row]) == pytest.approx(min(masses), abs=TOLERANCE)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_decisions_equal_generate_under_the_same_mask(name: str, seed: int) -> None:
    made = setup(**SETTINGS[name], seed=seed)
    images = random_images(GRIDS, seed, contexts(made))
    decisions = decode(made, images)
    for row in range(len(GRIDS)):
        expected = answer(made.program, decisions, row)
        (written,) = generate_under_mask(
            made.model, made.encoder, made.prompt, made.program, one_image(images, row)
        )
        assert written == expected


def spread(one: Decisions, row: int, other: Decisions, other_row: int) -> float:
    found = [float((one.format_mass[row] - other.format_mass[other_row]).abs())]
    for a, b in zip(one.slots, other.slots, strict=True):
        if isinstance(a, ChoiceDecision) and isinstance(b, ChoiceDecision):
            assert int(a.value[row]) == int(b.value[other_row])
            found.append(float((a.probabilities[row] - b.probabilities[other_row]).abs().max()))
        elif isinstance(a, DecimalDecision) and isinstance(b, DecimalDecision):
            assert torch.equal(a.digits[row], b.digits[other_row])
            found.append(float((a.second[row] - b.second[other_row]).abs().max()))
        elif isinstance(a, TextDecision) and isinstance(b, TextDecision):
            assert torch.equal(a.ids[row], b.ids[other_row])
    return max(found)


@pytest.mark.parametrize("template", ["score_form", "score_form_reasons", "score_prose"])
def test_a_row_does_not_depend_on_batch_order_or_padding(template: str) -> None:
    made = setup(template)
    images = random_images(GRIDS, contexts=contexts(made))
    together = decode(made, images)
    order = (3, 1, 4, 0, 2)
    parts = [one_image(images, row) for row in order]
    shuffled = decode(
        made,
        ImageBatch(
            torch.cat([part.patches for part in parts]),
            tuple(part.grids[0] for part in parts),
            tuple(part.contexts[0] for part in parts),
        ),
    )
    for place, row in enumerate(order):
        assert spread(together, row, shuffled, place) < 1e-5
        assert spread(together, row, decode(made, one_image(images, row)), 0) < 1e-5


def test_another_batch_in_between_changes_nothing() -> None:
    made = setup()
    decoder = SlotDecoder(made.model, made.prompt, made.program)
    images, other = random_images(GRIDS[:2]), random_images(GRIDS, seed=5)
    before = decoder.decode(images)
    decoder.decode(other)
    after = decoder.decode(images)
    assert all(spread(before, row, after, row) == 0.0 for row in range(2))


def test_free_text_is_the_greedy_continuation_up_to_its_separator() -> None:
    made = setup("score_form_reasons", seed=3)
    images = random_images(GRIDS, contexts=contexts(made))
    decisions = decode(made, images)
    for row in range(len(GRIDS)):
        ids = answer(made.program, decisions, row)
        for index, (step, decision) in enumerate(zip(made.program.steps, decisions.slots, strict=True)):
            if not isinstance(step.slot, FreeTextSlot) or not isinstance(decision, TextDecision):
                continue
            start = position_of(made.program, decisions, row, index)
            written = [int(token) for token in decision.ids[row] if int(token) >= 0]
            logs = teacher_forced(made, images, row, ids[: start + len(written)])[start:]
            logs[:, list(step.slot.banned)] = float("-inf")
            best = logs.argmax(1).tolist()
            assert best[: len(written)] == written
            assert len(written) == step.slot.max_tokens or best[len(written)] in step.slot.stops
            assert not set(written) & (step.slot.stops | step.slot.banned)


class Scripted(SlotDecoder):
    """Writes given words, one list of ids a row, and everything else as the model does."""

    scripts: Mapping[str, Sequence[Sequence[int]]]
    script: Sequence[Sequence[int]] | None = None
    place = 0

    def _write_text(self, rows, slot, logits):
        self.script, self.place = self.scripts[slot.name], 0
        decision = super()._write_text(rows, slot, self._scripted(logits))
        self.script = None
        return decision

    def _feed_pending(self, rows):
        logits = super()._feed_pending(rows)
        return logits if self.script is None else self._scripted(logits)

    def _scripted(self, logits: torch.Tensor) -> torch.Tensor:
        assert self.script is not None
        for row, ids in enumerate(self.script):
            logits[row, ids[self.place % len(ids)]] = 1e9
        self.place += 1
        return logits


def test_words_that_end_a_text_are_forgotten_and_forced_again() -> None:
    """Rows that end early, late, at once and never: what follows is decided as if none had been written."""
    made = setup(
        "published_form", instruction="after_image", tokenisation="whole_text", scale=ScoreScale(trimmed=True)
    )
    images = random_images(GRIDS, contexts=contexts(made))
    encode = made.encoder.encode
    words = (" Sky, sea, 1.2 m of sand", " A dog", "", " x", " (far away)")
    wanted = {"composition_reason": words, "eye_catching_reason": words[::-1], "prose": words}
    endings = {
        "composition_reason": ", 1.2 Composition Score:",
        "eye_catching_reason": ", 1.4 Eye-Catching Score:",
        "prose": "\nThe final score is <",
    }
    decoder = Scripted(made.model, made.prompt, made.program)
    decoder.scripts = {
        name: [encode(text if text == " x" else text + endings[name]) for text in texts]
        for name, texts in wanted.items()
    }
    decisions = decoder.decode(images)
    for row in range(len(GRIDS)):
        written = written_ids(made.program, decisions, row)
        for name, texts in wanted.items():
            slot = made.program.slot(name)
            assert isinstance(slot, FreeTextSlot)
            forever = encode(" x") * slot.max_tokens
            assert tuple(written[name]) == (
                forever[: slot.max_tokens] if texts[row] == " x" else encode(texts[row])
            )
        check_row_by_forward_passes(made, images, decisions, row)


def test_every_slot_takes_one_pass_and_the_third_digit_one_more() -> None:
    made = setup()
    decoder = SlotDecoder(made.model, made.prompt, made.program)
    decoder.decode(random_images(GRIDS))
    passes = []
    handle = made.model.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    decoder.decode(random_images(GRIDS))
    handle.remove()
    assert len(passes) == len(made.program.steps) + 1


def test_the_tests_own_answers_differ_between_rows() -> None:
    """A random model that answered the same everywhere would make the tests above prove little."""
    made = setup()
    decisions = decode(made, random_images(GRIDS))
    answers = [decided_values(made.program, decisions, row) for row in range(len(GRIDS))]
    assert any(one != other for one, other in pairwise(answers))
