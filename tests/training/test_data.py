from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from model.compiling import compile_template
from model.conversation import build_prompt, encode_context
from model.images import decode_image, inspect_image
from model.patches import normalised_patches
from model.templates import answer_templates
from model.tokens import IM_END, IMAGE_PAD, TextEncoder
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from tests.training.pictures import toy_picture
from tests.training.toy import RULE, png, toy_config, toy_files, toy_images
from training.data import (
    Collator,
    ConversationDataset,
    LabelledImages,
    PlannedConversation,
    Renderer,
    plan_conversations,
)
from training.demo.tokenizer import learn_tokenizer
from training.stages import conversation
from training.targets import WrongValues

SCALE = ScoreScale()
TEMPLATES = answer_templates(VOCABULARY, SCALE)
IMAGES = toy_images()
LABELS = IMAGES.annotations


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(learn_tokenizer())


@pytest.fixture(scope="module")
def renderer(encoder: TextEncoder) -> Renderer:
    return Renderer(encoder, conversation(toy_config("stage2")), VOCABULARY, SCALE)


def _plan(count: int, seed: int = 0, **shares: float) -> list[PlannedConversation]:
    chosen = [(TEMPLATES[name], share) for name, share in shares.items()]
    return plan_conversations(LABELS, chosen, SCALE, count, context_share=0.5, seed=seed)


def test_a_plan_uses_images_equally_and_templates_by_share() -> None:
    plan = _plan(1201, score_form=3, mix=1)
    images = Counter(planned.image for planned in plan)
    assert max(images.values()) - min(images.values()) <= 1
    assert len(images) == len(LABELS)
    assert Counter(p.template for p in plan)["score_form"] / len(plan) == pytest.approx(0.75, abs=0.05)
    assert np.mean([p.with_context for p in plan]) == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_gives_the_same_plan() -> None:
    assert _plan(40, score_form=1, mix=1) == _plan(40, score_form=1, mix=1)
    assert _plan(40, score_form=1, mix=1) != _plan(40, 1, score_form=1, mix=1)


def test_an_image_is_asked_only_what_its_labels_answer() -> None:
    labels = [Annotation(image="a.jpg", exposure="overexposed"), Annotation(image="b.jpg", mos=3.0)]
    templates = [(TEMPLATES["attribute_exposure"], 1.0), (TEMPLATES["score_direct"], 1.0)]
    plan = plan_conversations(labels, templates, SCALE, 50, context_share=0, seed=0)
    assert {(p.image, p.template) for p in plan} == {(0, "attribute_exposure"), (1, "score_direct")}


def test_an_image_without_a_usable_label_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"empty\.jpg: lacks"):
        plan_conversations(
            [Annotation(image="empty.jpg")], [(TEMPLATES["mix"], 1.0)], SCALE, 4, context_share=0, seed=0
        )
    with pytest.raises(ConfigurationError, match="no images"):
        plan_conversations([], [(TEMPLATES["mix"], 1.0)], SCALE, 4, context_share=0, seed=0)


@pytest.mark.parametrize("name", ["score_form", "mix", "score_direct", "attribute_exposure"])
@pytest.mark.parametrize("with_context", [True, False])
def test_training_feeds_the_ids_that_serving_feeds(encoder, renderer, name: str, with_context: bool) -> None:
    image = IMAGES[1]
    example = renderer.render(image, PlannedConversation(1, name, with_context, 0)).example
    settings = conversation(toy_config("stage2"))
    template = TEMPLATES[name]
    prompt = build_prompt(template, settings, encoder)
    context = encode_context(image.annotation.context if with_context else None, settings, encoder)
    height, width = image.pixels.shape[:2]
    asked = prompt.ids(encoder.special(IMAGE_PAD), height * width // 784, context.ids)
    assert list(example.input_ids[: example.answer_start]) == asked
    program = compile_template(template, encoder, encoder.special(IM_END), "segments")
    answer = example.input_ids[example.answer_start :]
    for position in range(len(answer)):
        allowed = program.allowed_after(answer[:position])
        assert allowed is None or answer[position] in allowed


def test_training_sees_the_pixels_that_serving_sees() -> None:
    file = io.BytesIO()
    Image.fromarray(toy_picture(3, 300, 200)).save(file, "JPEG")
    data = file.getvalue()
    (image,) = LabelledImages(LABELS[:1], [data].__getitem__, RULE)
    np.testing.assert_array_equal(image.pixels, decode_image(data, inspect_image(data), RULE))
    assert image.pixels.shape[0] * image.pixels.shape[1] <= RULE.max_pixels


def test_a_batch_is_padded_on_the_left_and_weighs_decided_tokens(encoder, renderer) -> None:
    plan = [
        PlannedConversation(i, name, True, 0) for i, name in enumerate(["score_form", "score_direct", "mix"])
    ]
    dataset = ConversationDataset(IMAGES, plan, renderer)
    rows = [dataset[i] for i in range(len(dataset))]
    batch = Collator(0, encoder.special(IMAGE_PAD), 0.25)(rows)
    assert batch["labels"].shape == batch["weights"].shape
    for index, row in enumerate(rows):
        ids = torch.tensor(row.example.input_ids)
        assert torch.equal(batch["input_ids"][index][batch["attention_mask"][index].bool()], ids)
        assert batch["attention_mask"][index, -len(ids) :].all()
        answer = len(row.example.decided)
        assert torch.equal(batch["labels"][index, -answer:], ids[-answer:])
        expected = torch.tensor([1.0 if decided else 0.25 for decided in row.example.decided])
        assert torch.equal(batch["weights"][index, -answer:], expected)
        assert not batch["weights"][index, :-answer].any()
    first = normalised_patches(rows[0].pixels)
    assert torch.equal(batch["pixel_values"][: len(first)], first)
    assert batch["image_grid_thw"].prod(dim=1).sum() == len(batch["pixel_values"])
    assert int(batch["mm_token_type_ids"].sum()) * 4 == len(batch["pixel_values"])


def test_images_are_read_when_they_are_asked_for_and_a_slice_reads_its_own() -> None:
    files, read = toy_files(), []

    def reading(index: int) -> bytes:
        read.append(index)
        return files[index]

    images = LabelledImages(LABELS, reading, RULE)
    part = images[2:5]
    assert read == []
    assert part.annotations == images.annotations[2:5]
    np.testing.assert_array_equal(part[1].pixels, images[3].pixels)
    assert part[1].annotation is images[3].annotation
    assert set(read) == {3}
    assert len(list(images)) == len(images) == 6


def test_images_of_a_folder_are_its_files(tmp_path) -> None:
    annotations = [label.model_copy(update={"image": f"train/{label.image}"}) for label in LABELS]
    (tmp_path / "train").mkdir()
    for annotation, data in zip(annotations, toy_files(), strict=True):
        (tmp_path / annotation.image).write_bytes(data)
    images = LabelledImages.of_folder(tmp_path, annotations, RULE)
    for one, other in zip(images, IMAGES, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_the_digest_follows_bytes_labels_and_order() -> None:
    files = toy_files()
    other_bytes = [png(toy_picture(99, 56, 84)), *files[1:]]
    relabelled = [LABELS[0].model_copy(update={"mos": 1.0}), *LABELS[1:]]
    digests = {
        IMAGES.digest,
        IMAGES[1:].digest,
        toy_images(files=other_bytes).digest,
        toy_images(annotations=relabelled).digest,
        toy_images(annotations=LABELS[::-1], files=files[::-1]).digest,
    }
    assert len(digests) == 5
    assert toy_images(6).digest == IMAGES.digest


# Fed composition and eye-catching (the true ones are 10 and 3): (token fed, token wanted) where they differ.
WRONG = {
    ("1", "10"): [("\n", "0"), ("1", "3"), ("0", None)],
    ("7", "3"): [("7", "1")],
    ("10", "1"): [("1", "3")],
}


def test_a_value_fed_wrong_stays_the_target_up_to_where_it_forks(encoder, renderer) -> None:
    annotation = IMAGES[0].annotation.model_copy(update={"composition": 10, "eye_catching": 3})
    image = replace(IMAGES[0], annotation=annotation)
    planned = PlannedConversation(0, "level_high", False, 0)
    true = renderer.render(image, planned)
    assert true.targets == true.example.input_ids[true.example.answer_start :]
    for composition, eye_catching in WRONG:
        row = renderer.render(image, planned, {"composition": composition, "eye_catching": eye_catching})
        fed = row.example.input_ids[row.example.answer_start :]
        said = encoder.decode(fed)
        assert f"Composition Score: {composition}\nEye-Catching Score: {eye_catching}" in said
        wanted = [
            (encoder.token_texts[a], None if b is None else encoder.token_texts[b])
            for a, b in zip(fed, row.targets, strict=True)
            if a != b
        ]
        assert wanted == WRONG[composition, eye_catching]


def test_ten_fed_for_one_asks_for_the_end_of_the_value(encoder, renderer) -> None:
    annotation = IMAGES[0].annotation.model_copy(update={"composition": 1, "eye_catching": 1})
    row = renderer.render(
        replace(IMAGES[0], annotation=annotation),
        PlannedConversation(0, "level_high", False, 0),
        {"composition": "10", "eye_catching": "10"},
    )
    fed = row.example.input_ids[row.example.answer_start :]
    changed = [(encoder.token_texts[a], b) for a, b in zip(fed, row.targets, strict=True) if a != b]
    newline, end = encoder.encode("\n")[0], encoder.special(IM_END)
    assert changed == [("0", newline), ("0", end)]


def test_values_are_fed_wrong_as_often_as_configured_and_the_same_every_time(renderer) -> None:
    plan = _plan(200, score_form=1)
    wrong = ConversationDataset(IMAGES, plan, renderer, WrongValues(integers=0.8))
    right = ConversationDataset(IMAGES, plan, renderer)
    rows = [wrong[i] for i in range(len(plan))]
    changed = [row.targets != row.example.input_ids[row.example.answer_start :] for row in rows]
    assert 0.6 < np.mean(changed) < 0.97
    assert [wrong[i].example for i in range(20)] == [row.example for row in rows[:20]]
    assert all(
        right[i].targets == right[i].example.input_ids[right[i].example.answer_start :] for i in range(20)
    )
