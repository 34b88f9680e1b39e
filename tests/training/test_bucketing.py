from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.backbone import load_base, load_tokenizer
from model.images import decode_image
from model.tokens import IMAGE_PAD, TextEncoder
from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from tests.training.pictures import toy_picture
from tests.training.toy import RULE, png, toy_base, toy_config, toy_files, toy_images
from training.bucketing import is_bucketed, like_lengths_together, padding_share
from training.config import LoraSettings, StageConfig
from training.data import Collator, Conversed, LabelledImages
from training.loop import train
from training.lora import attach_lora
from training.stages import conversations

SIZES = [(28, 28), (84, 56), (56, 112), (56, 84), (112, 56), (28, 56), (84, 84), (56, 56)]
CONFIG = toy_config(
    "stage1",
    steps=4,
    batch_size=8,
    micro_batch_size=2,
    lora=LoraSettings(rank=2, alpha=4, dropout=0.0),
    wrong_integers=0.5,
    wrong_labels=0.5,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return toy_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def encoder(base: Path) -> TextEncoder:
    return TextEncoder(load_tokenizer(base))


def _images() -> LabelledImages:
    files = [png(toy_picture(number, *size)) for number, size in enumerate(SIZES)]
    return toy_images(len(files), files=files)


def _lengths(count: int = 640, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(290, 600, count).tolist()


def _drawn(
    base: Path, encoder: TextEncoder, images: LabelledImages, config: StageConfig, work: Path
) -> list[list[Conversed]]:
    """The micro-batches of a whole run, in order."""
    found: list[list[Conversed]] = []

    class Recorder(Collator):
        def __call__(self, rows):
            found.append(list(rows))
            return super().__call__(rows)

    model = attach_lora(load_base(base, torch.device("cpu"), torch.float32), config.lora)
    collator = Recorder(0, encoder.special(IMAGE_PAD), 1.0)
    train(model, conversations(config, encoder, images), collator, config, work, device="cpu")
    return found


def _name(row: Conversed) -> tuple[tuple[int, ...], bytes]:
    return row.example.input_ids, row.pixels.tobytes()


def test_every_conversation_is_drawn_once_and_in_its_own_step() -> None:
    lengths = _lengths()
    order = like_lengths_together(lengths, 64)
    for start in range(0, len(lengths), 64):
        assert sorted(order[start : start + 64]) == list(range(start, start + 64))


def test_a_last_step_that_is_not_full_keeps_its_conversations() -> None:
    assert like_lengths_together([3, 1, 2, 5, 6], 3) == [0, 2, 1, 4, 3]


def test_neighbours_are_alike_and_the_longest_come_first() -> None:
    lengths = _lengths()
    order = like_lengths_together(lengths, 64)
    for start in range(0, len(lengths), 64):
        step = [lengths[index] for index in order[start : start + 64]]
        assert step == sorted(step, reverse=True)


def test_equal_lengths_leave_the_plan_as_it_is() -> None:
    assert like_lengths_together([7] * 20, 8) == list(range(20))


def test_padding_is_what_the_longest_of_a_micro_batch_adds_to_the_others() -> None:
    assert padding_share([10, 6, 4, 4], 2) == pytest.approx(4 / 28)
    assert padding_share([10, 6, 4, 4], 1) == 0
    assert padding_share([10, 6, 4], 2) == pytest.approx(4 / 24)


@pytest.mark.parametrize("micro", [2, 4, 8])
def test_most_of_the_padding_goes(micro: int) -> None:
    lengths = _lengths()
    order = like_lengths_together(lengths, 64)
    assert padding_share([lengths[index] for index in order], micro) < 0.3 * padding_share(lengths, micro)


def test_processes_that_take_turns_get_alike_work() -> None:
    lengths, processes, micro = _lengths(), 4, 2
    drawn = [lengths[index] for index in like_lengths_together(lengths, 64)]

    def spread(order: list[int]) -> float:
        costs = [max(order[i : i + micro]) for i in range(0, len(order), micro)]
        rounds = [costs[i : i + processes] for i in range(0, len(costs), processes)]
        return float(np.mean([max(costs) - min(costs) for costs in rounds]))

    assert spread(drawn) < 0.3 * spread(lengths)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"bucketing": False}, False),
        ({"micro_batch_size": None}, False),
        ({"micro_batch_size": 8}, False),
    ],
)
def test_only_steps_of_several_micro_batches_are_sorted(changes: dict[str, object], expected: bool) -> None:
    assert is_bucketed(CONFIG.model_copy(update=changes)) is expected


def test_lengths_are_those_of_the_rendered_conversations(encoder: TextEncoder) -> None:
    dataset = conversations(CONFIG, encoder, _images())
    lengths = dataset.lengths()
    assert lengths == [len(dataset[index].example.input_ids) for index in range(len(dataset))]
    assert len(set(lengths)) > len(SIZES)


def test_lengths_are_known_without_decoding_an_image(encoder: TextEncoder, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("training.data.decode_image", refused)
    assert conversations(CONFIG, encoder, _images()).lengths()
    assert decode_image is not refused


def test_sizes_are_those_that_the_model_sees_also_where_a_photograph_lies_on_its_side(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(toy_picture(1, 100, 300)).save(tmp_path / "a.jpg", exif=exif)
    images = LabelledImages.of_folder(tmp_path, [Annotation(image="a.jpg")], RULE)
    assert images.sizes() == [images[0].pixels.shape[:2]]
    assert images.sizes()[0][0] > images.sizes()[0][1]


def test_images_that_cannot_be_read_are_all_named_before_training(encoder: TextEncoder) -> None:
    files = [b"no image", *toy_files(3)[1:], b""]
    dataset = conversations(CONFIG, encoder, toy_images(4, files=files))
    with pytest.raises(ConfigurationError) as caught:
        dataset.lengths()
    assert [reason.split(":")[0] for reason in caught.value.reasons] == ["0.png", "3.png"]


def test_a_run_draws_the_plan_in_steps_of_like_micro_batches(base, encoder, tmp_path) -> None:
    dataset = conversations(CONFIG, encoder, _images())
    planned = [dataset[index] for index in range(len(dataset))]
    drawn = _drawn(base, encoder, _images(), CONFIG, tmp_path)
    assert [len(rows) for rows in drawn] == [2] * 16
    for step in range(4):
        found = [row for rows in drawn[4 * step : 4 * step + 4] for row in rows]
        wanted = planned[8 * step : 8 * step + 8]
        assert Counter(map(_name, found)) == Counter(map(_name, wanted))
        lengths = [len(row.example.input_ids) for row in found]
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("changes", [{"bucketing": False}, {"micro_batch_size": None}])
def test_a_run_that_does_not_sort_draws_the_plan_as_it_is(base, encoder, tmp_path, changes) -> None:
    config = CONFIG.model_copy(update={**changes, "steps": 2})
    dataset = conversations(config, encoder, _images())
    drawn = _drawn(base, encoder, _images(), config, tmp_path)
    wanted = [_name(dataset[index]) for index in range(len(dataset))]
    assert [_name(row) for rows in drawn for row in rows] == wanted
