"""Teaches the demo's vision tower to see, before a language model looks through it.

A conversation pays for one picture with a few decided tokens, and most of its cost is the language model's.
Here the tower alone is asked for everything that is known about a picture: every severity as a number, every
label, and for every visual token how much of it shows the subject or foreign objects. That is several times
as many pictures a second, and far more told about each. The head that answers is thrown away.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, Qwen2VLForConditionalGeneration, get_cosine_schedule_with_warmup
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.fast_paths import use_fast_paths
from model.patches import MERGE, PATCH, grid_thw, normalised_patches
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from training.data import LabelledImages
from training.demo.degradations import Severities
from training.demo.first_sight import Look, start_from_statistics
from training.optimiser import JointOptimiser, muon_and_adamw

_LOG = logging.getLogger(__name__)

_LOG_EVERY_STEPS = 100
_HEAD_WIDTH = 256
_NUMBER_WEIGHT, _ZONE_WEIGHT = 15.0, 6.0
"""Of the losses, beside 1 for every label: all three then pull about equally."""
_HUBER_BETA = 0.1
_WARMUP_RATIO = 0.06
_MAX_GRAD_NORM = 1.0
_WEIGHT_DECAY = 0.05
_LOOKED_AT, _LOOKED_AT_A_TIME = 400, 50
"""Pictures whose statistics decide where the tower starts."""
_ATTENTION = "realqa_float32_sdpa"


@dataclass(frozen=True, slots=True)
class EyesSettings:
    """How long and how fast.

    Attributes:
        steps: Optimiser steps.
        batch_size: Pictures a step.
        learning_rate: Highest one of the head; rises at the start, then falls as a cosine to zero.
        vision_learning_rate: The same for the tower: slower, for it can see something before it is trained.
        seed: Of the head and of the order.
    """

    steps: int = 1500
    batch_size: int = 32
    learning_rate: float = 2e-3
    vision_learning_rate: float = 3e-4
    seed: int = 4


EYES = EyesSettings()


def teach_to_see(
    model: Qwen2VLForConditionalGeneration,
    images: LabelledImages,
    severities: Sequence[Severities],
    zones: npt.NDArray[np.uint8],
    settings: EyesSettings = EYES,
) -> list[float]:
    """Train the vision tower of ``model`` in place.

    Args:
        model: Its ``visual`` changes, nothing else.
        images: Pictures with labels for all evaluated attributes and a score.
        severities: What was done to each.
        zones: (pictures, 3, side, side), what stands where (``pictures.Degraded.zones``).
        settings: How long and how fast.

    Returns:
        The loss of every step.

    Raises:
        ValueError: Not every picture has its severities and zones.
    """
    if not len(images) == len(severities) == len(zones):
        raise ValueError(f"{len(images)} images, {len(severities)} severities, {len(zones)} zones")
    numbers = torch.tensor(
        [severity_numbers(s, a) for s, a in zip(severities, images.annotations, strict=True)]
    )
    labels = torch.tensor([_labels(annotation) for annotation in images.annotations])
    torch.manual_seed(settings.seed)
    torch.set_flush_denormal(True)
    use_fast_paths(model)
    visual: Any = model.model.visual
    head = _Head(visual.config.hidden_size)
    progress = _Progress(settings)
    losses: list[float] = []
    with _fast_arithmetic(visual):
        start_from_statistics(visual, _looks(visual, images), settings.seed)
        visual.requires_grad_(True).train()
        step = _Optimisation(visual, head, settings)
        for chosen in _batches(len(images), settings):
            pictures = [images[index].pixels for index in chosen]
            grids = [_token_grid(pixels) for pixels in pictures]
            answer = head(_visual_tokens(visual, pictures), grids)
            shown = torch.cat([token_zones(zones[i], grid) for i, grid in zip(chosen, grids, strict=True)])
            loss = _loss(answer, numbers[chosen], labels[chosen], shown)
            step.take(loss)
            losses.append(loss.item())
            progress.report(losses)
    visual.eval()
    return losses


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the head says.

    Attributes:
        numbers: (batch, numbers).
        labels: One (batch, labels) of logits an attribute.
        zones: (tokens of all pictures, 3) logits.
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
        self.zones = nn.Linear(width, 3)

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
        severities.subject_pieces / 9,
        severities.background_pieces / 15,
        *(value / 10 for value in integers),
        (annotation.mos or 0.0) / 10,
    ]


def _labels(annotation: Annotation) -> list[int]:
    return [attribute.values.index(getattr(annotation, attribute.name)) for attribute in _CHOICES]


def _token_grid(pixels: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Rows and columns of visual tokens."""
    return pixels.shape[0] // (PATCH * MERGE), pixels.shape[1] // (PATCH * MERGE)


def token_zones(zones: npt.NDArray[np.uint8], grid: tuple[int, int]) -> torch.Tensor:
    """(tokens, 3), 0-1: the zones as the visual tokens see them."""
    size = (grid[1], grid[0])
    parts = [np.asarray(Image.fromarray(zone).resize(size, Image.Resampling.BOX)) for zone in zones]
    return torch.from_numpy(np.stack(parts, axis=-1).reshape(-1, 3)).float() / 255


def _looks(visual: Any, images: LabelledImages) -> list[Look]:
    """The first pictures, as ``start_from_statistics`` wants to look at them."""

    def look(first: int) -> list[int]:
        last = min(first + _LOOKED_AT_A_TIME, len(images), _LOOKED_AT)
        pictures = [images[index].pixels for index in range(first, last)]
        _visual_tokens(visual, pictures)
        return [down * across * MERGE**2 for down, across in map(_token_grid, pictures)]

    return [partial(look, first) for first in range(0, min(len(images), _LOOKED_AT), _LOOKED_AT_A_TIME)]


def _visual_tokens(visual: Any, pictures: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
    patches = torch.cat([normalised_patches(pixels) for pixels in pictures])
    grids = torch.tensor([grid_thw(*pixels.shape[:2]) for pixels in pictures])
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

    def __init__(self, visual: nn.Module, head: nn.Module, settings: EyesSettings) -> None:
        self._weights = [*visual.parameters(), *head.parameters()]
        rates = ((visual, settings.vision_learning_rate), (head, settings.learning_rate))
        self._optimiser = JointOptimiser(
            [muon_and_adamw(list(part.named_parameters()), rate, _WEIGHT_DECAY) for part, rate in rates]
        )
        self._schedule = get_cosine_schedule_with_warmup(
            self._optimiser, max(1, round(settings.steps * _WARMUP_RATIO)), settings.steps
        )

    def take(self, loss: torch.Tensor) -> None:
        """One step down this loss."""
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._weights, _MAX_GRAD_NORM)
        self._optimiser.step()
        self._schedule.step()
        self._optimiser.zero_grad()


def _batches(count: int, settings: EyesSettings) -> Iterator[list[int]]:
    """Every picture equally often (±1)."""
    rng = np.random.default_rng(settings.seed)
    order: list[int] = []
    for _ in range(settings.steps):
        while len(order) < settings.batch_size:
            order += rng.permutation(count).tolist()
        yield order[: settings.batch_size]
        del order[: settings.batch_size]


class _Progress:
    """Logs loss, speed and the time that is left."""

    def __init__(self, settings: EyesSettings) -> None:
        self._settings = settings
        self._started = time.monotonic()
        self._reported = 0

    def report(self, losses: Sequence[float]) -> None:
        """Log the steps since the last line, where it is time for one."""
        step = len(losses)
        if step % _LOG_EVERY_STEPS and step < self._settings.steps:
            return
        since = losses[self._reported :]
        passed_s = time.monotonic() - self._started
        _LOG.info(
            "eyes: step %d of %d, loss %.3f, %.0f pictures/s, %.1f min left",
            step,
            self._settings.steps,
            sum(since) / len(since),
            step * self._settings.batch_size / passed_s,
            passed_s / step * (self._settings.steps - step) / 60,
        )
        self._reported = step
