from __future__ import annotations

import pytest

from model.compiling import compile_template
from model.conversation import build_prompt
from model.templates import answer_template
from model.tokens import IM_END
from schemas.attributes import VOCABULARY
from schemas.manifest import Conversation, ScoreScale
from tests.benchmarks.built import shape_config
from tests.benchmarks.floor import (
    Pass,
    Work,
    batch_works,
    floor_of,
    program_passes,
    text_work,
    vision_work,
)
from tests.benchmarks.training_flops import micro_batch_flops
from tests.model.qwen import qwen_encoder
from tests.model.tiny import tiny_config

SMALL = tiny_config(512)


def test_the_vision_tower_by_hand() -> None:
    # 12 patches: 3·14² → 32; two blocks of 4·32² + 2·32·64; attention 12² twice; merger 128 → 128 → 64.
    assert vision_work(SMALL, [3], 2) == Work(
        flops=2 * (12 * (18_816 + 16_384) + 3 * 24_576) + 36_864, read_bytes=2 * (18_816 + 16_384 + 24_576)
    )
    # Images attend within themselves.
    assert vision_work(SMALL, [3, 3], 2).flops == 2 * vision_work(SMALL, [3], 2).flops


def test_a_pass_of_the_language_model_by_hand() -> None:
    # Two blocks of 2·64·32 for keys and values and 2·64·64 + 3·64·128 for the rest, the second one's rest for
    # two columns; five columns see 10 + 1 … 10 + 5, in the second block two 14 and 15; head 64 → 512 for
    # two; keys and values of 15 columns, 2 · 32 numbers in two layers, for each of three rows.
    assert text_work(SMALL, 3, Pass(columns=5, past=10, logits=2), 2) == Work(
        flops=3 * (2 * (5 * (8_192 + 32_768) + 2 * (32_768 + 32_768)) + 4 * 64 * (65 + 29)),
        read_bytes=2 * (73_728 + 32_768 + 3 * 2 * 32 * 2 * 15),
    )


def test_a_pass_costs_what_is_slower_and_passes_add_up() -> None:
    found = floor_of([Work(1e12, 1e6), Work(1e6, 2e9)], rows=4, flops_per_s=1e12, bytes_per_s=1e9)
    assert found.seconds == pytest.approx(1 + 2)
    assert found.images_per_s == pytest.approx(4 / 3)
    assert found.tflop_per_image == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(("shape", "tflop"), [("7b", 16.6), ("2b", 6.9)])
def test_an_image_of_640_tokens_costs_what_the_published_shapes_say(shape: str, tflop: float) -> None:
    # 150 tokens of prompt, nothing of it shared, and 120 of answer.
    passes = [Pass(640 + 150, 0, 1), Pass(120, 640 + 150, 120)]
    works = batch_works(shape_config(shape), [640], passes, 2)
    assert sum(work.flops for work in works) / 1e12 == pytest.approx(tflop, rel=0.05)


@pytest.mark.parametrize("shape", ["toy", "7b"])
def test_it_counts_as_the_training_step_does_but_for_masked_attention(shape: str) -> None:
    config = shape_config(shape)
    forward = micro_batch_flops(config, 0, [256], 128, 128).forward
    text = config.get_text_config()
    masked = 4 * text.hidden_size * text.num_hidden_layers * (128 * 127 // 2)
    ours = sum(work.flops for work in batch_works(config, [64], [Pass(128, 0, 128)], 2))
    assert ours == pytest.approx(forward - masked, rel=1e-9)


def _passes(template: str, visual_tokens: int) -> list[Pass]:
    encoder = qwen_encoder()
    shape = answer_template(template, VOCABULARY, ScoreScale())
    prompt = build_prompt(shape, Conversation(chatml_sha256=""), encoder)
    return program_passes(
        prompt, compile_template(shape, encoder, encoder.special(IM_END), "segments"), visual_tokens
    )


def test_passes_follow_the_slot_program() -> None:
    first, *others = _passes("score_form", 256)
    assert first.columns > 256
    assert first.past > 20  # the shared prefix
    # Nine labels and the score, whose third digit waits for the second.
    assert len(others) == 10
    assert others[-1] == Pass(1, others[-2].past + others[-2].columns, 1)
    assert all(one.logits >= 1 for one in others)
    assert others[-2].logits == 11  # the first digit, and a second one behind each of ten
    longer, *rest = _passes("score_form", 257)
    assert longer.columns == first.columns + 1
    assert [one.columns for one in rest] == [one.columns for one in others]


def test_free_text_is_a_pass_a_word() -> None:
    assert len(_passes("score_form_subject", 64)) == len(_passes("score_form", 64)) + 24
