"""From labelled images to conversations: a plan of what is asked of which image, and its rendering."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from model.compiling import compile_template
from model.conversation import (
    ContextIds,
    TrainingExample,
    build_prompt,
    encode_context,
    slot_values,
    training_example,
)
from model.images import decode_image, inspect_image, resized_size
from model.patches import grid_thw, normalised_patches, visual_tokens
from model.scores import to_unit_scale, to_unit_std
from model.templates import AnswerTemplate, answer_templates
from model.tokens import IM_END, TextEncoder
from schemas.annotations import Annotation
from schemas.attributes import Vocabulary
from schemas.errors import ConfigurationError, ScoringError
from schemas.manifest import Conversation, ImageRule, ScoreScale
from training.annotation_files import image_file
from training.targets import ALWAYS_RIGHT, WrongValues, targets_of


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image as the model sees it, and its labels.

    Attributes:
        pixels: uint8 (height, width, 3), at the pixel budget.
        annotation: The labels.
    """

    pixels: NDArray[np.uint8]
    annotation: Annotation


class LabelledImages(Sequence[LabelledImage]):
    """Labelled images that are read when they are asked for, by the very path of serving.

    Args:
        annotations: Labels of every image.
        read: Gives the encoded image of an index.
        rule: Pixel budget and resize rule.
    """

    def __init__(
        self, annotations: Sequence[Annotation], read: Callable[[int], bytes], rule: ImageRule
    ) -> None:
        self.annotations = tuple(annotations)
        self._read, self._rule = read, rule

    @classmethod
    def of_folder(cls, folder: Path, annotations: Sequence[Annotation], rule: ImageRule) -> LabelledImages:
        """Images as files of a data set's folder (``annotation_files.image_file``)."""
        return cls(annotations, lambda index: image_file(folder, annotations[index]).read_bytes(), rule)

    def __len__(self) -> int:
        return len(self.annotations)

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...
    @overload
    def __getitem__(self, index: slice) -> LabelledImages: ...
    def __getitem__(self, index: int | slice) -> LabelledImage | LabelledImages:
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            return LabelledImages(self.annotations[index], lambda i: self._read(chosen[i]), self._rule)
        data = self._read(index)
        return LabelledImage(decode_image(data, inspect_image(data), self._rule), self.annotations[index])

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width, px, at which the model sees every image; by the headers, nothing is decoded.

        Raises:
            ConfigurationError: Images that cannot be read; they are named.
        """
        found: list[tuple[int, int]] = []
        problems: list[str] = []
        for index, annotation in enumerate(self.annotations):
            try:
                facts = inspect_image(self._read(index))
                assert facts.height_px is not None  # a header that was read
                assert facts.width_px is not None
                found.append(resized_size(facts.height_px, facts.width_px, self._rule))
            except (ScoringError, OSError) as error:
                problems.append(f"{annotation.image}: {error}")
        if problems:
            raise ConfigurationError(problems[:20])
        return found

    @cached_property
    def digest(self) -> str:
        """sha256 of every image's bytes and labels, in order."""
        digest = hashlib.sha256()
        for index, annotation in enumerate(self.annotations):
            digest.update(hashlib.sha256(self._read(index)).digest())
            digest.update(annotation.model_dump_json().encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class PlannedConversation:
    """What is asked of which image.

    Attributes:
        image: Index of the image.
        template: Name of the answer template.
        with_context: Whether the image's context is shown.
        seed: Chooses among wordings, where a template has several.
    """

    image: int
    template: str
    with_context: bool
    seed: int


def plan_conversations(
    labels: Sequence[Annotation],
    templates: Sequence[tuple[AnswerTemplate, float]],
    scale: ScoreScale,
    count: int,
    *,
    context_share: float,
    seed: int,
) -> list[PlannedConversation]:
    """Decide ``count`` conversations; every image is used equally often (±1) before templates are drawn.

    An image is asked only what its labels answer.

    Args:
        labels: Labels of every image.
        templates: Templates with their shares.
        scale: How scores are written.
        count: Number of conversations.
        context_share: Share of conversations that show the context.
        seed: Same seed, same plan.

    Raises:
        ConfigurationError: An image has the labels of no template, or there are no images.
    """
    if not labels:
        raise ConfigurationError("there are no images to train on")
    possible = [_answerable(annotation, templates, scale) for annotation in labels]
    empty = [labels[i].image for i, found in enumerate(possible) if not found]
    if empty:
        raise ConfigurationError([f"{image}: lacks a label for every template asked" for image in empty[:20]])
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(labels)).tolist()
    plan = []
    for image in order[:count]:
        names, shares = zip(*possible[image], strict=True)
        weights = np.array(shares) / sum(shares)
        name = names[rng.choice(len(names), p=weights)]
        with_context = bool(rng.random() < context_share)
        plan.append(PlannedConversation(image, name, with_context, int(rng.integers(2**31))))
    return plan


def _answerable(
    annotation: Annotation, templates: Sequence[tuple[AnswerTemplate, float]], scale: ScoreScale
) -> list[tuple[str, float]]:
    return [(t.name, share) for t, share in templates if slot_values(t, annotation, scale) is not None]


class Renderer:
    """Renders conversations for one tokeniser: the ids that serving would feed.

    Args:
        encoder: The base model's tokeniser.
        conversation: As the manifest will state it.
        vocabulary: Attributes and labels.
        scale: How scores are written.
    """

    def __init__(
        self, encoder: TextEncoder, conversation: Conversation, vocabulary: Vocabulary, scale: ScoreScale
    ) -> None:
        self.vocabulary = vocabulary
        self._encoder, self._conversation, self._scale = encoder, conversation, scale
        self._templates = answer_templates(vocabulary, scale)
        self._compiled: dict[str, Any] = {}

    def render(
        self, image: LabelledImage, planned: PlannedConversation, fed_wrong: Mapping[str, str] | None = None
    ) -> Conversed:
        """Render one planned conversation.

        Args:
            image: The labelled image.
            planned: What to ask.
            fed_wrong: Values to feed in place of the true ones, by attribute; the true ones stay the target.
        """
        template = self._templates[planned.template]
        if planned.template not in self._compiled:
            program = compile_template(template, self._encoder, self._encoder.special(IM_END), "segments")
            prompt = build_prompt(template, self._conversation, self._encoder)
            self._compiled[planned.template] = prompt, program
        prompt, program = self._compiled[planned.template]
        values: Mapping[str, str] | None = slot_values(template, image.annotation, self._scale, planned.seed)
        if values is None:
            raise ValueError(f"{image.annotation.image} lacks a label that {planned.template!r} needs")
        context = ContextIds()
        if planned.with_context:
            context = encode_context(image.annotation.context, self._conversation, self._encoder)
        height, width = image.pixels.shape[:2]
        tokens = visual_tokens(height, width)
        fed = {**values, **{name: value for name, value in (fed_wrong or {}).items() if name in values}}
        example = training_example(prompt, program, fed, self._encoder, tokens, context)
        targets = targets_of(program, example, values, fed)
        if example.score_start is None or image.annotation.mos is None:
            return Conversed(example, targets, image.pixels)
        if self._scale.head == "soft_levels":
            # Learnt as a distribution (training.score_losses), not as this one word.
            targets = (*targets[: example.score_start], None, *targets[example.score_start + 1 :])
        std = image.annotation.mos_std
        return Conversed(
            example,
            targets,
            image.pixels,
            to_unit_scale(image.annotation.mos, self._scale),
            None if std is None else to_unit_std(std, self._scale),
        )


@dataclass(frozen=True, slots=True)
class Conversed:
    """One row of a training batch.

    Attributes:
        example: What the model is fed.
        targets: For every answer token what the model should have written there; None = nothing is asked.
        pixels: The image.
        score: Of the labels, in points of 0–10, where the answer has one.
        score_std: Its standard deviation, where the labels have one.
    """

    example: TrainingExample
    targets: tuple[int | None, ...]
    pixels: NDArray[np.uint8]
    score: float | None = None
    score_std: float | None = None


class ConversationDataset(Dataset[Conversed]):
    """A plan, rendered on demand.

    Attributes:
        plan: What is asked of which image, in order.
    """

    def __init__(
        self,
        images: LabelledImages,
        plan: Sequence[PlannedConversation],
        renderer: Renderer,
        wrong: WrongValues = ALWAYS_RIGHT,
    ) -> None:
        self.plan = plan
        self._images, self._renderer, self._wrong = images, renderer, wrong

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Conversed:
        planned = self.plan[index]
        image = self._images[planned.image]
        return self._renderer.render(image, planned, self._fed_wrong(planned))

    def lengths(self) -> list[int]:
        """Tokens of every conversation, visual ones included; no image is decoded.

        Raises:
            ConfigurationError: Images that cannot be read; they are named.
        """
        sizes = self._images.sizes()
        found = []
        for planned in self.plan:
            # One byte seen as a picture: only its size is asked for.
            pixels = np.broadcast_to(np.uint8(0), (*sizes[planned.image], 3))
            blank = LabelledImage(pixels, self._images.annotations[planned.image])
            rendered = self._renderer.render(blank, planned, self._fed_wrong(planned))
            found.append(len(rendered.example.input_ids))
        return found

    def _fed_wrong(self, planned: PlannedConversation) -> dict[str, str]:
        """Draw, by the plan's seed, which attributes are fed the value of some other image."""
        rng = np.random.default_rng(planned.seed)
        fed = {}
        for attribute in self._renderer.vocabulary.evaluated:
            share = self._wrong.integers if attribute.kind == "integer" else self._wrong.labels
            other = self._images.annotations[int(rng.integers(len(self._images)))]
            value = getattr(other, attribute.name)
            # Always drawn, used or not: one attribute must not shift the others.
            if rng.random() < share and value is not None:
                fed[attribute.name] = str(value)
        return fed


class Collator:
    """Makes a batch: padded on the left, so that all answers end at the right edge.

    Then one number, the longest answer, says at which positions logits are needed.

    Args:
        pad_id: Any id; padding is masked.
        image_pad_id: Id of ``<|image_pad|>``.
        forced_token_weight: Loss weight of answer tokens that serving forces.
    """

    def __init__(self, pad_id: int, image_pad_id: int, forced_token_weight: float) -> None:
        self._pad_id, self._image_pad_id = pad_id, image_pad_id
        self._forced_token_weight = forced_token_weight

    def __call__(self, rows: Sequence[Conversed]) -> dict[str, torch.Tensor]:
        """Collate.

        Returns:
            The model's inputs; ``labels`` and ``weights`` (batch, longest answer): weight 0 = no target; and
            (batch,) each of ``score_columns``: which column of these decides the score, -1 = none, ``scores``
            and ``score_stds`` in points of 0–10, NaN = not known.
        """
        length = max(len(row.example.input_ids) for row in rows)
        answer = max(len(row.example.decided) for row in rows)
        ids = torch.full((len(rows), length), self._pad_id)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full((len(rows), answer), self._pad_id)
        weights = torch.zeros(len(rows), answer)
        for index, row in enumerate(rows):
            ids[index, length - len(row.example.input_ids) :] = torch.tensor(row.example.input_ids)
            mask[index, length - len(row.example.input_ids) :] = 1
            decided = torch.tensor(row.example.decided)
            asked = torch.tensor([target is not None for target in row.targets])
            weight = torch.where(decided, 1.0, self._forced_token_weight) * asked
            weights[index, answer - len(decided) :] = weight
            targets = [self._pad_id if target is None else target for target in row.targets]
            labels[index, answer - len(decided) :] = torch.tensor(targets)
        starts = [None if row.score is None else row.example.score_start for row in rows]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._image_pad_id).int(),
            "pixel_values": torch.cat([normalised_patches(row.pixels) for row in rows]),
            "image_grid_thw": torch.tensor([grid_thw(*row.pixels.shape[:2]) for row in rows]),
            "labels": labels,
            "weights": weights,
            "score_columns": torch.tensor(
                [
                    -1 if start is None else answer - len(row.example.decided) + start
                    for row, start in zip(rows, starts, strict=True)
                ]
            ),
            "scores": _numbers([row.score for row in rows]),
            "score_stds": _numbers([row.score_std for row in rows]),
        }


def _numbers(values: Sequence[float | None]) -> torch.Tensor:
    return torch.tensor([float("nan") if value is None else value for value in values])
