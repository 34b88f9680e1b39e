"""A toy base model on disk and a handful of labelled pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model.tokens import IM_END, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from schemas.annotations import Annotation
from schemas.manifest import ImageRule
from tests.model.tiny import tiny_model
from tests.training.pictures import toy_picture
from training.config import LoraSettings, StageConfig
from training.data import LabelledImages
from training.demo.labels import annotate, sample_verdict
from training.demo.tokenizer import learn_tokenizer

RULE = ImageRule(min_pixels=784, max_pixels=6272)


def toy_base(folder: Path) -> Path:
    tokenizer = learn_tokenizer()
    ids = {name: tokenizer.token_to_id(name) for name in (IMAGE_PAD, VIDEO_PAD, VISION_START, VISION_END)}
    model = tiny_model(
        tokenizer.get_vocab_size(),
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        eos_token_id=tokenizer.token_to_id(IM_END),
        scale=1.0,
    )
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def toy_annotations(count: int = 6, seed: int = 0) -> list[Annotation]:
    rng = np.random.default_rng(seed)
    annotations = []
    for number in range(count):
        annotation = annotate(sample_verdict(rng), f"{number}.png", rng)
        if number % 2:
            annotation = annotation.model_copy(update={"context": f"photo {number}"})
        annotations.append(annotation)
    return annotations


def toy_files(count: int = 6) -> list[bytes]:
    sizes = [(56, 84), (84, 56), (56, 56)]
    return [png(toy_picture(number, *sizes[number % 3])) for number in range(count)]


def toy_images(
    count: int = 6,
    *,
    annotations: Sequence[Annotation] | None = None,
    files: Sequence[bytes] | None = None,
) -> LabelledImages:
    return LabelledImages(
        annotations or toy_annotations(count), (files or toy_files(count)).__getitem__, RULE
    )


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def toy_config(stage: str, **changes: object) -> StageConfig:
    settings: dict[str, object] = {
        "stage": stage,
        "trainable": "all" if stage == "base" else "lora",
        "lora": LoraSettings(rank=2, alpha=4, dropout=0.0),
        "templates": {
            "base": {"score_form": 1, "mix": 1},
            "stage1": {"mix": 1, "attribute_exposure": 1},
            "stage2": {"score_form": 2, "score_direct": 1, "score_prose": 1},
        }[stage],
        "default_template": "mix" if stage == "stage1" else "score_form",
        "context_template": " Context: {context}.",
        "image": RULE,
        "steps": 3,
        "batch_size": 2,
        "learning_rate": 1e-2,
    }
    return StageConfig.model_validate({**settings, **changes})
