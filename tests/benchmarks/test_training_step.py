from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from model.patches import visual_tokens
from model.tokens import IMAGE_PAD
from tests.benchmarks.__main__ import main
from tests.benchmarks.built import shape_config
from tests.benchmarks.pictures import image_size
from tests.benchmarks.training_flops import micro_batch_flops
from tests.benchmarks.training_step import NOTE, FullLabels, build_model, conversations, step_flops
from tests.model.qwen import qwen_encoder
from training.answer_loss import answer_outputs, outputs_loss
from training.config import shipped_config
from training.data import Collator, Conversed
from training.lora import attach_lora, lora_targets

CONFIG = shipped_config("stage1").model_copy(update={"batch_size": 2, "micro_batch_size": 2})
TOKENS = 64
COLLATE = Collator(0, qwen_encoder().special(IMAGE_PAD), 1.0)
_aten = torch.ops.aten
# The counter knows the attention of GPUs, not that of CPUs, whose arguments are the same.
ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}


@pytest.fixture(scope="module")
def rows() -> list[Conversed]:
    return conversations(CONFIG, TOKENS, 2)


@pytest.fixture(scope="module")
def model():
    return build_model("toy", CONFIG, torch.device("cpu")).train()


def _inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in FullLabels(COLLATE)(batch).items() if name != "labels"}


@pytest.mark.parametrize("full_logits", [False, True])
def test_the_arithmetic_is_what_torch_counts(model, rows, full_logits: bool) -> None:
    answers = max(len(row.example.decided) for row in rows)
    keep = 0 if full_logits else answers + 1
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        logits = model(**_inputs(rows), logits_to_keep=keep, use_cache=False).logits
        forward = counter.get_total_flops()
        logits.float().logsumexp(-1).mean().backward()
    counted = step_flops(model.get_base_model().config, CONFIG, rows, full_logits=full_logits)
    assert counted.forward == pytest.approx(forward, rel=0.001)
    # Recomputing stops short of the last product of a block, whose result no gradient needs.
    assert counted.total == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_the_7b_at_512_tokens_costs_what_its_parameters_say() -> None:
    found = micro_batch_flops(shape_config("7b"), 1, [2048], 640, 1)
    # 0.63 B parameters in the vision blocks, 6.5 B in those of the language model; attention comes on top.
    by_parameters = 2 * (2048 * 0.63e9 + 640 * 6.53e9)
    assert found.forward == pytest.approx(by_parameters, rel=0.15)
    assert found.forward > by_parameters
    assert found.recompute < found.forward < found.backward


@pytest.mark.parametrize(("shape", "targets"), [("2b", 324), ("7b", 324)])
def test_adapters_of_the_published_shapes_are_those_of_stage_1(shape: str, targets: int) -> None:
    from transformers import Qwen2VLForConditionalGeneration

    with torch.device("meta"):
        base = Qwen2VLForConditionalGeneration(shape_config(shape))
        assert len(lora_targets(base, CONFIG.vision)) == targets
        adapted = attach_lora(base, CONFIG.lora, CONFIG.vision)
    assert all("lora_" in name for name, parameter in adapted.named_parameters() if parameter.requires_grad)


@pytest.mark.parametrize("tokens", [1, 64, 256, 480, 512, 1280])
def test_pictures_have_the_tokens_asked_for(tokens: int) -> None:
    assert visual_tokens(*image_size(tokens)) == tokens


def test_conversations_are_those_of_the_stage_about_noise(rows) -> None:
    many = conversations(CONFIG, TOKENS, 12)
    assert len(many) == 12
    assert len({len(row.example.input_ids) for row in many}) > 2
    pad = qwen_encoder().special(IMAGE_PAD)
    assert all(row.example.input_ids.count(pad) == TOKENS for row in many)
    assert all(60 < row.pixels.std() < 90 for row in rows)


def test_the_plain_loop_learns_the_same(model, rows) -> None:
    ours = COLLATE(rows)
    plain = FullLabels(COLLATE)(rows)
    with torch.no_grad():
        model.eval()
        one = outputs_loss(answer_outputs(model, ours), ours)
        other = model(**plain).loss
        model.train()
    assert float(one) == pytest.approx(float(other), rel=1e-2)


def test_a_run_prints_a_table_and_writes_its_figures(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    options = [
        "training",
        "--visual-tokens",
        "16",
        "--batch-size",
        "2",
        "--micro-batch-size",
        "1",
        "--steps",
        "1",
    ]
    assert main([*options, "--runs", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["benchmark"] == "training"
    figures = report["figures"]
    assert figures["note"] == NOTE
    assert (figures["shape"], figures["batch_size"], figures["micro_batch_size"]) == ("toy", 2, 1)
    assert figures["padding_share"] == 0
    for loop in ("ours", "full_logits"):
        found = figures[loop]
        parts = sum(found[f"{part}_tflop"] for part in ("forward", "backward", "recompute"))
        assert found["tflop"] == pytest.approx(parts, rel=1e-2)
        assert found["conversations_per_s"] == pytest.approx(2 / found["step_s"], rel=1e-2)
        assert 0 < found["fraction_of_matmul"] < 1
    assert figures["ours"]["tflop"] < figures["full_logits"]["tflop"]
    shown = capsys.readouterr().out
    assert NOTE in shown
    assert "fraction of matrix product" in shown


def test_stage_1_as_shipped_is_what_is_measured() -> None:
    shipped = shipped_config("stage1")
    assert (shipped.lora.rank, shipped.precision, shipped.gradient_checkpointing) == (128, "bfloat16", True)
