"""Teaches the demo's vision tower to see, before a language model looks through it.

A conversation pays for one picture with a few decided tokens, and most of its cost is the language model's.
Here the tower alone is asked for everything that is known about a picture: every severity as a number, every
label, and for every visual token how much of it shows the subject, what hides it, or foreign objects.
That is several times as many pictures a second, and far more told about each. The head that answers is
thrown away.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, Qwen2VLForConditionalGeneration, get_cosine_schedule_with_warmup
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.fast_paths import use_fast_paths
from model.patches import MERGE, grid_thw, normalised_patches
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.manifest import ImageRule
from training.demo.degradations import Severities
from training.demo.first_sight import Look, start_from_statistics
from training.demo.lessons import Lesson, token_grid
from training.demo.pictures import ZONES
from training.optimiser import JointOptimiser, muon_and_adamw

_LOG = logging.getLogger(__name__)

_LOG_EVERY_STEPS = 100
_HEAD_WIDTH = 256
_NUMBER_WEIGHT, _ZONE_WEIGHT = 15.0, 15.0
"""Of the losses, beside 1 for every label: all three then pull about equally."""
_HUBER_BETA = 0.1
_WARMUP_RATIO = 0.06
_MAX_GRAD_NORM = 1.0
_WEIGHT_DECAY = 0.05
_LOOKED_AT, _LOOKED_AT_A_TIME = 400, 50
"""Pictures whose statistics decide where the tower starts."""
_ATTENTION = "realqa_float32_sdpa"


@dataclass(frozen=True, slots=True)
class EyesPhase:
    """How large, how long and how fast.

    Attributes:
        pixel_share: Share of the model's pixel budget that its pictures have.
        steps: Optimiser steps.
        learning_rate: Highest one of the head; rises at the start, then falls as a cosine to zero.
        vision_learning_rate: The same for the tower.
        batch_size: Pictures a step.
    """

    pixel_share: float
    steps: int
    learning_rate: float = 2e-3
    vision_learning_rate: float = 1e-3
    batch_size: int = 32

    def rule(self, full: ImageRule) -> ImageRule:
        """Pixel budget of its pictures; ``full`` is the model's."""
        budget = {"min_pixels": full.min_pixels, "max_pixels": full.max_pixels}
        return full.model_copy(update={name: round(self.pixel_share * most) for name, most in budget.items()})

    @property
    def pictures(self) -> int:
        """Number of pictures it takes."""
        return self.steps * self.batch_size


EYES = (
    EyesPhase(1 / 4, 2200, vision_learning_rate=2.5e-3),
    EyesPhase(1, 450, vision_learning_rate=1e-3),
)
"""Small pictures first: a quarter of the size is a quarter of the time, and what counts is their number."""
_STATISTICS_BLOCKS = 2
"""First blocks that stay as ``start_from_statistics`` made them."""


def teach_to_see(
    model: Qwen2VLForConditionalGeneration,
    phases: Iterable[tuple[EyesPhase, Iterator[Lesson]]],
    seed: int,
) -> list[float]:
    """Train the vision tower of ``model`` in place.

    Args:
        model: Its ``visual`` changes, nothing else.
        phases: One after another, each with its pictures: with labels for all evaluated attributes and a
            score, as many as it takes.
        seed: Of the head, and of where the tower starts.

    Returns:
        The loss of every step.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    use_fast_paths(model)
    visual: Any = model.model.visual
    head = _Head(visual.config.hidden_size)
    losses: list[float] = []
    with _fast_arithmetic(visual):
        for phase, pictures in phases:
            if not losses:
                looked_at = list(islice(pictures, _LOOKED_AT))
                start_from_statistics(visual, _looks(visual, looked_at), seed)
                _free(visual)
                pictures = chain(looked_at, pictures)
            losses += _learn(visual, head, phase, pictures)
    visual.eval()
    return losses


def _free(visual: Any) -> None:
    """Let the tower learn, but for what measures the statistics: training would forget them."""
    visual.requires_grad_(True).train()
    for measuring in (visual.patch_embed, *visual.blocks[:_STATISTICS_BLOCKS]):
        measuring.requires_grad_(False)


def _learn(visual: Any, head: _Head, phase: EyesPhase, pictures: Iterator[Lesson]) -> list[float]:
    step, progress = _Optimisation(visual, head, phase), _Progress(phase)
    losses: list[float] = []
    for _ in range(phase.steps):
        # Neighbours of one size are attended to together.
        batch = sorted(islice(pictures, phase.batch_size), key=lambda lesson: len(lesson.zones))
        answer = head(_visual_tokens(visual, batch), [token_grid(lesson.pixels) for lesson in batch])
        loss = _loss(answer, *_truth(batch))
        step.take(loss)
        losses.append(loss.item())
        progress.report(losses)
    return losses


def _truth(batch: Sequence[Lesson]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers = [severity_numbers(lesson.severities, lesson.annotation) for lesson in batch]
    labels = [_labels(lesson.annotation) for lesson in batch]
    zones = np.concatenate([lesson.zones for lesson in batch])
    return torch.tensor(numbers), torch.tensor(labels), torch.from_numpy(zones).float() / 255


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the head says.

    Attributes:
        numbers: (batch, numbers).
        labels: One (batch, labels) of logits an attribute.
        zones: (tokens of all pictures, ZONES) logits.
    """

    numbers: torch.Tensor
    labels: tuple[torch.Tensor, ...]
    zones: torch.Tensor


class _Head(nn.Module):
    """Reads means over a picture's tokens, as attention will, and every token's own zones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, _HEAD_WIDTH)
        # Pictures differ in small parts of their means; put on one scale, these are learnt at one speed.
        self.even = nn.BatchNorm1d(width + _HEAD_WIDTH)
        self.mix = nn.Linear(width + _HEAD_WIDTH, _HEAD_WIDTH)
        self.numbers = nn.Linear(_HEAD_WIDTH, len(severity_numbers(Severities(), _PERFECT)))
        self.labels = nn.ModuleList(nn.Linear(_HEAD_WIDTH, len(attribute.labels)) for attribute in _CHOICES)
        self.zones = nn.Linear(width, ZONES)

    def forward(self, tokens: torch.Tensor, grids: Sequence[tuple[int, int]]) -> _Answer:
        """Answer for a batch; ``tokens`` (tokens of all pictures, width), one grid a picture."""
        seen = self.norm(tokens)
        both = torch.cat([seen, functional.gelu(self.widen(seen))], dim=1)
        means = torch.stack(
            [part.mean(0) for part in torch.split(both, [down * across for down, across in grids])]
        )
        mixed = functional.gelu(self.mix(self.even(means)))
        return _Answer(self.numbers(mixed), tuple(read(mixed) for read in self.labels), self.zones(seen))


def _loss(answer: _Answer, numbers: torch.Tensor, labels: torch.Tensor, zones: torch.Tensor) -> torch.Tensor:
    by_number = functional.smooth_l1_loss(answer.numbers, numbers, beta=_HUBER_BETA)
    by_label = sum(
        functional.cross_entropy(said, true) for said, true in zip(answer.labels, labels.T, strict=True)
    )
    by_zone = functional.binary_cross_entropy_with_logits(answer.zones, zones)
    return _NUMBER_WEIGHT * by_number + by_label + _ZONE_WEIGHT * by_zone


_CHOICES = tuple(attribute for attribute in VOCABULARY.evaluated if attribute.kind == "choice")
_PERFECT = Annotation(image="", composition=10, eye_catching=10, mos=10.0)


def severity_numbers(severities: Severities, annotation: Annotation) -> list[float]:
    """Every severity, the two integers and the score, on scales of about one."""
    integers = [getattr(annotation, a.name) for a in VOCABULARY.evaluated if a.kind == "integer"]
    return [
        math.log1p(severities.blur_px) / 1.9,
        math.log1p(severities.noise_levels / 10) / 1.9,
        math.log(95 / severities.jpeg_quality) / 3,
        severities.exposure_ev / 3,
        severities.clipped * 2,
        math.log(max(severities.saturation_gain, 0.1)) / 1.5,
        severities.contrast_gain - 1,
        abs(severities.tilt_deg) / 20,
        severities.cut,
        severities.off_centre,
        severities.subject_pieces / 11,
        severities.background_pieces / 16,
        *(value / 10 for value in integers),
        (annotation.mos or 0.0) / 10,
    ]


def _labels(annotation: Annotation) -> list[int]:
    return [attribute.values.index(getattr(annotation, attribute.name)) for attribute in _CHOICES]


def _looks(visual: Any, pictures: Sequence[Lesson]) -> list[Look]:
    """Pictures, as ``start_from_statistics`` wants to look at them."""

    def look(first: int) -> list[int]:
        some = pictures[first : first + _LOOKED_AT_A_TIME]
        _visual_tokens(visual, some)
        return [len(lesson.zones) * MERGE**2 for lesson in some]

    return [partial(look, first) for first in range(0, len(pictures), _LOOKED_AT_A_TIME)]


def _visual_tokens(visual: Any, pictures: Sequence[Lesson]) -> torch.Tensor:
    patches = torch.cat([normalised_patches(lesson.pixels) for lesson in pictures])
    grids = torch.tensor([grid_thw(*lesson.pixels.shape[:2]) for lesson in pictures])
    # Where the processor has matrix units for bfloat16 they are several times as fast.
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(torch.cpu.get_capabilities().get("amx_bf16"))):
        tokens: torch.Tensor = visual(patches, grid_thw=grids).pooler_output
    return tokens.float()


@contextmanager
def _fast_arithmetic(visual: Any) -> Iterator[None]:
    """Attention outside autocast: its backward pass in bfloat16 is several times slower on a CPU."""
    before = visual.config._attn_implementation
    AttentionInterface.register(_ATTENTION, _float32_attention)
    visual.config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        visual.config._attn_implementation = before


def _float32_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *arguments: Any,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    with torch.autocast("cpu", enabled=False):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), *arguments, **named
        )
    return found


class _Optimisation:
    """Takes optimiser steps: a short rise of the learning rate, then a cosine down to zero."""

    def __init__(self, visual: nn.Module, head: nn.Module, phase: EyesPhase) -> None:
        rates = ((visual, phase.vision_learning_rate), (head, phase.learning_rate))
        learning = [
            ([(name, weight) for name, weight in part.named_parameters() if weight.requires_grad], rate)
            for part, rate in rates
        ]
        self._weights = [weight for named, _ in learning for _, weight in named]
        self._optimiser = JointOptimiser(
            [muon_and_adamw(named, rate, _WEIGHT_DECAY) for named, rate in learning]
        )
        self._schedule = get_cosine_schedule_with_warmup(
            self._optimiser, max(1, round(phase.steps * _WARMUP_RATIO)), phase.steps
        )

    def take(self, loss: torch.Tensor) -> None:
        """One step down this loss."""
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._weights, _MAX_GRAD_NORM)
        self._optimiser.step()
        self._schedule.step()
        self._optimiser.zero_grad()


class _Progress:
    """Logs loss, speed and the time that is left."""

    def __init__(self, phase: EyesPhase) -> None:
        self._phase = phase
        self._started = time.monotonic()
        self._reported = 0

    def report(self, losses: Sequence[float]) -> None:
        """Log the steps since the last line, where it is time for one."""
        step = len(losses)
        if step % _LOG_EVERY_STEPS and step < self._phase.steps:
            return
        since = losses[self._reported :]
        passed_s = time.monotonic() - self._started
        _LOG.info(
            "eyes: step %d of %d, loss %.3f, %.0f pictures/s, %.1f min left",
            step,
            self._phase.steps,
            sum(since) / len(since),
            step * self._phase.batch_size / passed_s,
            passed_s / step * (self._phase.steps - step) / 60,
        )
        self._reported = step
