"""What one stage of training does, as one frozen object read from one YAML file.

The stages of RealQA (arXiv 2503.06141) and the pre-training of a small base differ in these values only:
there is one code path (``training.stages``).
"""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.resizing import RESIZES
from model.templates import answer_templates
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import READOUT_HEADS, ImageRule, Placement, ScoreScale


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSettings(_Part):
    """Size of the low-rank updates (arXiv 2106.09685).

    Attributes:
        rank: Rank of every update.
        alpha: Updates are scaled by alpha / rank.
        dropout: Share of inputs of an update that is dropped while training.
    """

    rank: int = Field(default=128, ge=1)
    alpha: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class ScoreLoss(_Part):
    """How a score head is taught; digits and hard levels are tokens, and need nothing of this.

    Attributes:
        weight: Of the head's loss, beside the mean cross-entropy of the answer's tokens.
        soft_bins: Bins learn the distribution that ``mos`` and ``mos_std`` give, not the one bin of ``mos``.
        assumed_std: Deviation where a label has no ``mos_std``, in points of 0–10; None = none: soft levels
            then put the label between two levels.
        fidelity: Weight of a ranking loss over the pairs of a micro-batch (DeQA-Score); 0 = none.
    """

    weight: float = Field(default=1.0, gt=0)
    soft_bins: bool = False
    assumed_std: float | None = Field(default=None, gt=0)
    fidelity: float = Field(default=0.0, ge=0)


class StageConfig(_Part):
    """One stage.

    Attributes:
        stage: ``base`` pre-trains a small base; ``stage1`` learns attributes, ``stage2`` the score.
        trainable: ``all`` weights, or a ``lora`` adapter on a base that stays as it is.
        initialise: Start from the weights of the ``base``, or from ``random`` ones of the same shape, drawn
            with ``seed``: to see what the base's own training is worth.
        vision: What an adapter changes in the vision tower: nothing (``frozen``), low-rank updates
            (``lora``), or all of it (``full``, saved with the adapter). Where ``trainable`` is ``all``, the
            tower is trained too unless ``frozen``.
        lora: Size of the updates; not read where ``trainable`` is ``all``.
        templates: Answer template → its share of the conversations; shares need not add up to 1.
        default_template: The one that serving uses unless told otherwise.
        instruction: Question before the image (served faster) or after it (as published).
        context_template: Sentence holding ``{context}``; None = images are asked about without context.
        context_share: Share of conversations that show the image's context, where it has one; the rest
            teaches to do without.
        image: Pixel budget and resize rule, the same in serving.
        score: Native range of the labels' ``mos``, the head that the score arises from, and how it is read.
        score_loss: How that head is taught.
        steps: Optimiser steps; or
        epochs: as many as show every image once with every template, that often.
        batch_size: Conversations per step, over all processes.
        micro_batch_size: Conversations that a process holds at a time; None = its whole share of a step.
        bucketing: Conversations of like length share a micro-batch, so that less of it is padding
            (``training.bucketing``); changes nothing where a step is one micro-batch.
        precision: Of the arithmetic: ``bfloat16`` halves memory and is faster where the hardware has it. The
            weights that are trained stay in float32.
        gradient_checkpointing: Computes activations twice instead of keeping them.
        checkpoint_every: Steps between states that a killed run goes on from.
        validate_every: Steps between measurements on images of split ``validation`` (``training.validator``),
            and once more at the end; the weights that did best are kept. None = never: the last ones are.
        stop_after: Measurements in a row without a new best that end the run early; None = it is not ended.
        optimiser: ``adamw``, or ``muon`` for weight matrices with AdamW for the rest (from scratch only).
        learning_rate: Highest learning rate; cosine schedule down to zero.
        vision_learning_rate: The same for the vision tower; None = ``learning_rate``.
        warmup_ratio: Share of the steps in which the learning rate rises.
        weight_decay: On weight matrices.
        max_grad_norm: Gradients are scaled down to this norm.
        wrong_integers: Share of integers fed wrong while training (``training.data.WrongValues``).
        wrong_labels: The same for labels.
        forced_token_weight: Loss weight of answer tokens that serving forces; values decided weigh 1.
        seed: Of initialisation, order, templates and dropout.
    """

    stage: Literal["base", "stage1", "stage2"]
    trainable: Literal["all", "lora"] = "lora"
    initialise: Literal["base", "random"] = "base"
    vision: Literal["frozen", "lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    templates: dict[str, float] = Field(min_length=1)
    default_template: str
    instruction: Placement = "before_image"
    context_template: str | None = None
    context_share: float = Field(default=0.5, ge=0, le=1)
    image: ImageRule
    score: ScoreScale = ScoreScale()
    score_loss: ScoreLoss = ScoreLoss()
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    bucketing: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    checkpoint_every: int = Field(default=200, ge=1)
    validate_every: int | None = Field(default=None, ge=1)
    stop_after: int | None = Field(default=None, ge=1)
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0)
    vision_learning_rate: float | None = Field(default=None, gt=0)
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    wrong_integers: float = Field(default=0.0, ge=0, le=1)
    wrong_labels: float = Field(default=0.0, ge=0, le=1)
    forced_token_weight: float = Field(default=1.0, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _fits_together(self) -> StageConfig:
        known = answer_templates(VOCABULARY, self.score)
        problems = [f"templates: there is no {name!r}" for name in self.templates if name not in known]
        problems += [
            f"templates: the share of {n!r} must be above 0" for n, s in self.templates.items() if s <= 0
        ]
        if self.default_template not in self.templates:
            problems.append(f"default_template {self.default_template!r} is not among templates")
        if self.image.image_decoder not in RESIZES:
            problems.append(f"image.image_decoder: must be one of {', '.join(RESIZES)}")
        wrong = {"stage1": 2, "stage2": 1}.get(self.stage)
        problems += [
            f"templates: {name!r} belongs to stage {wrong}"
            for name in self.templates
            if name in known and known[name].stage == wrong
        ]
        if (self.stage == "base") != (self.trainable == "all"):
            problems.append("stage 'base' trains 'all' weights, the others an adapter ('lora')")
        if self.initialise == "random" and self.trainable == "lora":
            problems.append(
                "initialise 'random' needs trainable 'all': an adapter cannot teach random weights"
            )
        if self.initialise == "random" and self.vision == "frozen":
            problems.append("initialise 'random' with vision 'frozen' would never learn to see")
        if self.stop_after is not None and self.validate_every is None:
            problems.append("stop_after counts measurements: validate_every must say how often there is one")
        problems += self._head_problems()
        if (self.steps is None) == (self.epochs is None):
            problems.append("one of steps and epochs says how long to train")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            problems.append("micro_batch_size must divide batch_size")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _head_problems(self) -> list[str]:
        head, problems = self.score.head, []
        if head in READOUT_HEADS and self.stage != "stage2":
            problems.append(f"score.head {head!r} has weights of its own, which stage2 alone trains")
        taught = self.score_loss
        if taught.weight != 1 and head in ("digits", "levels"):
            problems.append(f"score_loss.weight: score.head {head!r} is learnt as tokens alone")
        soft = head == "soft_levels" or (head == "bins" and (taught.soft_bins or taught.fidelity > 0))
        if taught.assumed_std is not None and not soft:
            problems.append("score_loss.assumed_std: nothing here uses the deviation of labels")
        if taught.fidelity and self.micro_batch_size == 1:
            problems.append("score_loss.fidelity: a micro-batch of 1 has no pairs to rank")
        if self.score_loss.soft_bins and head != "bins":
            problems.append("score_loss.soft_bins is for score.head 'bins'")
        if self.score_loss.fidelity and head not in ("soft_levels", "bins"):
            problems.append("score_loss.fidelity needs a distribution: score.head 'soft_levels' or 'bins'")
        return problems

    def optimiser_steps(self, images: int) -> int:
        """How long to train on so many images."""
        if self.epochs is None:
            assert self.steps is not None  # checked above
            return self.steps
        return max(1, math.floor(self.epochs * images * len(self.templates) / self.batch_size))


def load_config(path: Path) -> StageConfig:
    """Read a stage's YAML file.

    Raises:
        ConfigurationError: Not readable, no YAML, or wrong values: all of them are named.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: holds no settings")
    try:
        return StageConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError([f"{path}: {_in_words(detail)}" for detail in error.errors()]) from error


def shipped_config(name: str) -> StageConfig:
    """Read one of the configurations that ship with this package, by its file name without the ending."""
    with resources.as_file(resources.files("training") / "configs" / f"{name}.yaml") as path:
        return load_config(path)


def chosen_config(name_or_path: str) -> StageConfig:
    """Read a configuration by its path, or by the name of one that ships here.

    Raises:
        ConfigurationError: There is none, or it is wrong; names those that ship here.
    """
    path = Path(name_or_path)
    shipped = sorted(
        entry.name.removesuffix(".yaml")
        for entry in (resources.files("training") / "configs").iterdir()
        if entry.name.endswith(".yaml")
    )
    if name_or_path in shipped and not path.exists():
        return shipped_config(name_or_path)
    if not path.is_file():
        raise ConfigurationError(
            f"there is no configuration {name_or_path}; those here: {', '.join(shipped)}"
        )
    return load_config(path)


def _in_words(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else str(detail["msg"])
