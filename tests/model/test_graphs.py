"""Recorded slot passes against the same passes computed anew, on memory that stays and in padded shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch

from model.buckets import bucket_columns, bucket_rows
from model.cache import CacheStorage, SlotCache
from model.decisions import ChoiceDecision, Decisions
from model.decoding import SlotDecoder
from model.fast_paths import use_fast_paths
from model.ragged import ImageBatch
from model.scorer import Scorer
from model.slots import FreeTextSlot
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from tests.model.teacher import Setup, one_image, random_images, setup
from tests.model.watching import Tape

GRIDS = ((4, 6), (8, 8), (2, 10), (6, 4), (12, 2))
TOLERANCE = 1e-5
SETTINGS = {
    "ours": {},
    "image first": {"instruction": "after_image"},
    "trimmed": {"scale": ScoreScale(trimmed=True)},
    "five digits": {"scale": ScoreScale(digits=5, trimmed=True)},
    "mix": {"template": "mix"},
    "direct": {"template": "score_direct"},
    "reasons": {"template": "score_form_reasons"},
    "prose": {"template": "score_prose"},
}


def made_lean(**settings: object) -> Setup:
    made = setup(**settings)
    use_fast_paths(made.model)
    return made


def decoders(made: Setup) -> tuple[SlotDecoder, SlotDecoder, Tape]:
    """One that computes everything anew, one that replays, and the latter's tape."""
    tape = Tape()
    plain = SlotDecoder(made.model, made.prompt, made.program)
    return plain, SlotDecoder(made.model, made.prompt, made.program, recorder=tape), tape


def check_equal(found: Decisions, expected: Decisions) -> None:
    torch.testing.assert_close(found.format_mass, expected.format_mass, rtol=0, atol=TOLERANCE)
    for one, other in zip(found.slots, expected.slots, strict=True):
        for part in fields(one):
            torch.testing.assert_close(
                getattr(one, part.name), getattr(other, part.name), rtol=0, atol=TOLERANCE
            )


def batches(made: Setup) -> Sequence[ImageBatch]:
    """Different pictures and sizes of batch, the first of which share a shape."""
    words = [made.encoder.encode(text) for text in ("", "a red barn", "", "x", "by the sea")]
    return (
        random_images(GRIDS, 1, words),
        random_images(GRIDS[::-1], 2, words),
        random_images(GRIDS[:3], 3),
        random_images(GRIDS, 4),
        one_image(random_images(GRIDS, 5), 1),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_replayed_passes_give_what_passes_computed_anew_give(name: str) -> None:
    made = made_lean(**SETTINGS[name])
    plain, replaying, tape = decoders(made)
    for images in batches(made):
        check_equal(replaying.decode(images), plain.decode(images))
    texts = [isinstance(step.slot, FreeTextSlot) for step in made.program.steps]
    before_text = [*texts, True].index(True)
    assert tape.replayed == (5 if before_text > 1 else 0)
    assert tape.recorded == (3 if before_text > 1 else 0)


def test_a_text_behind_recorded_steps_is_written_as_ever() -> None:
    """No template of ours has one there: the words of one that has, in another order."""
    made = made_lean(template="score_form_reasons")
    texts = [step for step in made.program.steps if isinstance(step.slot, FreeTextSlot)]
    others = [step for step in made.program.steps if not isinstance(step.slot, FreeTextSlot)]
    program = replace(made.program, steps=(*others[:3], texts[0], *others[3:]))
    plain, replaying, tape = decoders(replace(made, program=program))
    for images in batches(made):
        check_equal(replaying.decode(images), plain.decode(images))
    assert (tape.recorded, tape.replayed) == (3, 5)


def test_a_program_that_begins_with_text_is_neither_recorded_nor_padded() -> None:
    made = made_lean(template="score_prose")
    _, replaying, _ = decoders(made)
    seen = []
    made.model.model.language_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["inputs_embeds"].shape[0]), with_kwargs=True
    )
    replaying.decode(random_images(GRIDS))
    assert set(seen) == {1, len(GRIDS)}  # the prefix, then every pass


def test_decisions_stay_when_the_next_batch_is_decided() -> None:
    made = made_lean()
    _, replaying, _ = decoders(made)
    first, second = batches(made)[:2]
    found = replaying.decode(first)
    kept = [slot.probabilities.clone() for slot in found.slots if isinstance(slot, ChoiceDecision)]
    other = replaying.decode(second)
    assert not torch.equal(kept[0], other.slots[0].probabilities)
    for before, slot in zip(kept, found.slots, strict=False):
        assert torch.equal(before, slot.probabilities)


def test_one_recording_serves_every_batch_of_its_shape() -> None:
    made = made_lean()
    _, replaying, tape = decoders(made)
    for seed in range(3):
        replaying.decode(random_images(GRIDS[: 5 + seed % 2], seed))
        replaying.decode(random_images([(4, 4)] * (5 + seed), seed))
    assert (tape.recorded, tape.replayed) == (1, 6)


def test_weights_written_in_place_keep_recordings_and_count() -> None:
    """A merge writes in place, so its graphs go on, with the new weights."""
    made = made_lean()
    plain, replaying, tape = decoders(made)
    images = batches(made)[0]
    before = replaying.decode(images)
    with torch.no_grad():
        made.model.lm_head.weight.mul_(0.5)
    found = replaying.decode(images)
    check_equal(found, plain.decode(images))
    assert not torch.equal(found.format_mass, before.format_mass)
    assert (tape.recorded, tape.forgotten) == (1, 0)


def test_weights_at_other_addresses_drop_recordings() -> None:
    made = made_lean()
    plain, replaying, tape = decoders(made)
    images = batches(made)[0]
    replaying.decode(images)
    made.model.lm_head.weight.data = made.model.lm_head.weight.data * 0.5
    check_equal(replaying.decode(images), plain.decode(images))
    assert (tape.recorded, tape.forgotten) == (2, 1)


def test_a_larger_batch_moves_the_memory_and_drops_recordings() -> None:
    made = made_lean()
    plain, replaying, tape = decoders(made)
    small, large = batches(made)[4], batches(made)[0]
    for images in (small, large, small, large):
        check_equal(replaying.decode(images), plain.decode(images))
    assert tape.forgotten == 1
    assert tape.recorded == 3  # the small one before the memory moved, then each once


def test_shapes_are_few_and_no_smaller_than_the_batch() -> None:
    rows, columns = range(1, 65), range(1, 2049)
    assert all(bucket_rows(count) >= count for count in rows)
    assert all(bucket_columns(count) >= count for count in columns)
    assert len({bucket_rows(count) for count in rows}) == 9
    assert len({bucket_columns(count) for count in columns}) == 20
    assert [bucket_rows(count) for count in (5, 64, 65)] == [8, 64, 80]
    assert [bucket_columns(count) for count in (1, 64, 65, 513)] == [64, 64, 128, 640]


def test_the_first_pass_is_as_wide_as_it_must_be_and_only_recorded_ones_are_padded() -> None:
    made = made_lean()
    _, replaying, _ = decoders(made)
    replaying.decode(random_images(GRIDS))
    seen = []
    made.model.model.language_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["inputs_embeds"].shape[0]), with_kwargs=True
    )
    replaying.decode(random_images(((8, 8), *GRIDS)))  # another number of rows, the same recording
    assert seen == [6]


def test_skipped_columns_and_rows_that_are_not_there_count_for_nothing() -> None:
    """Whatever an earlier batch has left in the memory, numbers that are none among it."""
    made = made_lean()
    plain, replaying, _ = decoders(made)
    small, large = random_images(GRIDS[:3], 1), random_images(((16, 16), *GRIDS), 2)
    for images in (large, small):
        replaying.decode(images)
    with torch.inference_mode():
        for memory in replaying._recorded.storage._memory.values():
            memory.fill_(float("nan"))
    check_equal(replaying.decode(small), plain.decode(small))


def test_caches_of_one_shape_lie_on_the_same_memory_until_a_larger_one_comes() -> None:
    storage = CacheStorage()

    def keys_of(batch: int) -> torch.Tensor:
        cache = SlotCache(batch, 8, storage)
        keys, _ = cache.update(torch.zeros(batch, 2, 3, 4), torch.zeros(batch, 2, 3, 4), 0)
        return keys

    first, generation = keys_of(2), storage.generation
    assert keys_of(2).data_ptr() == keys_of(1).data_ptr() == first.data_ptr()
    assert storage.generation == generation
    keys_of(3)
    assert storage.generation > generation


def test_graphs_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigurationError, match="cuda_graphs: there are none on device cpu"):
        Scorer.load(device="cpu", cuda_graphs=True)
