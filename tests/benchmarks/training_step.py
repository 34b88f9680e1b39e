"""``training``: what a stage-1 step costs, against a plain Trainer's.

A Qwen2-VL of a published shape (or a toy), randomly initialised on the device, is trained as the shipped
``stage1`` configuration says (LoRA, bf16, gradient checkpointing) on its conversations about random pixels.
Beside it, alternating in the same run: transformers' Trainer with the model's own loss, which makes logits at
every position. Random weights give the true speed and memory of this work, and say nothing about quality.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import (
    PrinterCallback,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from model.fast_paths import use_fast_paths
from model.patches import PATCH
from model.templates import answer_templates
from model.tokens import IMAGE_PAD
from schemas.attributes import VOCABULARY
from tests.benchmarks.built import shape_config
from tests.benchmarks.devices import GIB, forget_peak, matmul_flops_per_s, peak_bytes, rounded, synchronise
from tests.benchmarks.machine import process_bytes
from tests.benchmarks.pictures import image_size
from tests.benchmarks.training_flops import StepFlops, micro_batch_flops
from tests.model.qwen import qwen_encoder
from tests.training.toy import toy_annotations
from training.bucketing import like_lengths_together, padding_share
from training.config import StageConfig, shipped_config
from training.data import Collator, Conversed, LabelledImage, Renderer, plan_conversations
from training.loop import AnswerTrainer
from training.lora import attach_lora
from training.optimiser import build_optimiser
from training.stages import conversation

NOTE = "random weights: true of speed and memory, says nothing about quality"
_NO_TARGET = -100  # where transformers' losses look away
_MODEL_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")


@dataclass(frozen=True, slots=True)
class Measured:
    """Steps of one kind of loop.

    Attributes:
        seconds: Of every timed step, batches made from pixels included.
        peak_bytes: Most memory in use: of the device, or of this process on a CPU; None = not to be had.
        resting_bytes: The same between steps: weights, adapter, optimiser.
    """

    seconds: tuple[float, ...]
    peak_bytes: int | None
    resting_bytes: int | None


def training_config(batch_size: int, micro_batch_size: int | None) -> StageConfig:
    """The shipped ``stage1`` with other batches; micro-batch None = as it says."""
    changes = {"batch_size": batch_size, "micro_batch_size": micro_batch_size}
    settings = shipped_config("stage1").model_dump()
    return StageConfig.model_validate(settings | {name: n for name, n in changes.items() if n})


def measure(
    shape: str,
    config: StageConfig,
    visual_tokens: int,
    device: torch.device,
    *,
    steps: int,
    runs: int,
) -> dict[str, Any]:
    """Time both loops in turns, and a matrix product between them; one step of each run is a warm-up."""
    rows = conversations(config, visual_tokens, (steps + 1) * config.batch_size)
    collator = Collator(0, qwen_encoder().special(IMAGE_PAD), config.forced_token_weight)
    model = build_model(shape, config, device)
    loops: dict[str, tuple[type[Trainer], Callable[[Sequence[Conversed]], dict[str, torch.Tensor]]]]
    loops = {"ours": (AnswerTrainer, collator), "full_logits": (Trainer, FullLabels(collator))}
    found: dict[str, list[Measured]] = {name: [] for name in loops}
    matmuls = [matmul_flops_per_s(device)]
    for _ in range(runs):
        for name, (kind, collate) in loops.items():
            found[name].append(timed_steps(kind, model, rows, collate, config))
        matmuls.append(matmul_flops_per_s(device))
    lengths = [len(row.example.input_ids) for row in rows]
    matmul = statistics.median(matmuls)
    shape_of = model.get_base_model().config
    figures: dict[str, Any] = {
        "note": NOTE,
        "shape": shape,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "visual_tokens": visual_tokens,
        "tokens": {"median": statistics.median(lengths), "least": min(lengths), "most": max(lengths)},
        "padding_share": round(padding_share(lengths, _micro(config)), 4),
        "batch_size": config.batch_size,
        "micro_batch_size": _micro(config),
        "matmul_tflops": round(matmul / 1e12, 3),
    }
    for name in loops:
        flops = step_flops(shape_of, config, rows[config.batch_size :], full_logits=name == "full_logits")
        figures[name] = _figures(found[name], flops, config.batch_size, matmul)
    figures["ratio"] = _ratios(figures["ours"], figures["full_logits"])
    return figures


def build_model(shape: str, config: StageConfig, device: torch.device) -> PeftModel:
    """A base of a shape in bf16 and an adapter in float32, as ``train_stage`` makes them from files."""
    torch.manual_seed(config.seed)
    with device:
        model = Qwen2VLForConditionalGeneration._from_config(
            shape_config(shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        use_fast_paths(model)
        trained = attach_lora(model, config.lora, config.vision)
    with warnings.catch_warnings():
        # Renamed after the oldest release that we take; the new name is not there yet.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing_enable", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return trained


def conversations(config: StageConfig, visual_tokens: int, count: int) -> list[Conversed]:
    """Rendered conversations of a stage about random pixels, in the order in which a run draws them."""
    annotations = toy_annotations(config.batch_size)
    known = answer_templates(VOCABULARY, config.score)
    shares = [(known[name], share) for name, share in config.templates.items()]
    plan = plan_conversations(
        annotations, shares, config.score, count, context_share=config.context_share, seed=config.seed
    )
    renderer = Renderer(qwen_encoder(), conversation(config), VOCABULARY, config.score)
    noise = np.random.default_rng(config.seed)
    size = image_size(visual_tokens)
    rows = [
        renderer.render(
            LabelledImage(noise.integers(0, 256, (*size, 3), np.uint8), annotations[planned.image]), planned
        )
        for planned in plan
    ]
    lengths = [len(row.example.input_ids) for row in rows]
    return [rows[index] for index in like_lengths_together(lengths, config.batch_size)]


class FullLabels:
    """Batches as a plain Trainer takes them: a label at every position."""

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __call__(self, rows: Sequence[Conversed]) -> dict[str, torch.Tensor]:
        batch = self._collator(rows)
        answers = torch.where(batch["weights"] > 0, batch["labels"], _NO_TARGET)
        labels = torch.full_like(batch["input_ids"], _NO_TARGET)
        labels[:, -answers.shape[1] :] = answers
        return {name: batch[name] for name in _MODEL_INPUTS} | {"labels": labels}


class _Clock(TrainerCallback):
    """Times steps after the first, end to end: making the next batch is part of a step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ends: list[float] = []
        self.resting_bytes: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronise(self._device)
        if not self.ends:
            # Before the gradients go: they are made anew in every step, so they do not count as resting.
            self.resting_bytes = _resting_bytes(self._device, kwargs["model"])
            forget_peak(self._device)
        self.ends.append(time.perf_counter())


def timed_steps(
    kind: type[Trainer],
    model: PeftModel,
    rows: Sequence[Conversed],
    collate: Callable[[Sequence[Conversed]], dict[str, torch.Tensor]],
    config: StageConfig,
) -> Measured:
    """Train through ``rows`` once with one kind of Trainer; the first step is a warm-up."""
    device = next(model.parameters()).device
    clock = _Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = kind(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=len(rows) // config.batch_size,
                per_device_train_batch_size=_micro(config),
                gradient_accumulation_steps=config.batch_size // _micro(config),
                train_sampling_strategy="sequential",
                max_grad_norm=config.max_grad_norm,
                learning_rate=config.learning_rate,
                use_cpu=device.type == "cpu",
                bf16=config.precision == "bfloat16",
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                label_names=["labels"],
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=rows,
            data_collator=collate,
            optimizers=(build_optimiser(model, config), None),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    seconds = tuple(after - before for before, after in pairwise(clock.ends))
    return Measured(seconds, peak_bytes(device), clock.resting_bytes)


def step_flops(
    shape: Qwen2VLConfig, config: StageConfig, rows: Sequence[Conversed], *, full_logits: bool
) -> StepFlops:
    """Arithmetic of an average step over ``rows``, a whole number of steps."""
    micro = _micro(config)
    found = StepFlops()
    for start in range(0, len(rows), micro):
        together = rows[start : start + micro]
        columns = max(len(row.example.input_ids) for row in together)
        answers = max(len(row.example.decided) for row in together) + 1
        patches = [row.pixels.shape[0] * row.pixels.shape[1] // PATCH**2 for row in together]
        logits = columns if full_logits else answers
        found += micro_batch_flops(shape, config.lora.rank, patches, columns, logits)
    steps = len(rows) / config.batch_size
    return StepFlops(found.forward / steps, found.backward / steps, found.recompute / steps)


def _figures(found: Sequence[Measured], flops: StepFlops, batch_size: int, matmul: float) -> dict[str, Any]:
    step = statistics.median(seconds for run in found for seconds in run.seconds)
    peaks = [(run.peak_bytes, run.resting_bytes) for run in found]
    known = [(peak, resting) for peak, resting in peaks if peak is not None and resting is not None]
    return {
        "step_s": rounded(step),
        "conversations_per_s": rounded(batch_size / step),
        "peak_memory_gib": rounded(max(peak for peak, _ in known) / GIB) if known else None,
        "working_memory_gib": rounded(max(p - r for p, r in known) / GIB) if known else None,
        "tflop": rounded(flops.total / 1e12),
        "forward_tflop": rounded(flops.forward / 1e12),
        "backward_tflop": rounded(flops.backward / 1e12),
        "recompute_tflop": rounded(flops.recompute / 1e12),
        "fraction_of_matmul": rounded(flops.total / step / matmul),
    }


def _ratios(ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """Plain over ours: above 1 = ours is better."""
    keys = ("step_s", "peak_memory_gib", "working_memory_gib")
    return {key: round(plain[key] / ours[key], 2) for key in keys if ours[key] and plain[key]}


def _micro(config: StageConfig) -> int:
    return config.micro_batch_size or config.batch_size


def _resting_bytes(device: torch.device, model: torch.nn.Module) -> int | None:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    held = sum(gradient.numel() * gradient.element_size() for gradient in gradients)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) - held
    resident = process_bytes("VmRSS")
    return None if resident is None else resident - held
