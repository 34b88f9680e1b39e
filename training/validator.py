"""How well the weights of a running training rank images that it does not learn from.

Answers are decoded as serving decodes them (``model.decoding``), the values before the score by the model
itself: under teacher forcing the score follows the labels it is fed, which measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from transformers import Qwen2VLForConditionalGeneration

from model.adapters import SCORE_HEAD_MODULE
from model.compiling import compile_template
from model.conversation import build_prompt, encode_context
from model.decisions import ChoiceDecision, Decisions
from model.decoding import SlotDecoder
from model.patches import grid_thw, patch_rows
from model.ragged import ImageBatch
from model.reading import read_score
from model.templates import SCORE, answer_templates
from model.tokens import IM_END, TextEncoder
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import Conversation
from training.config import StageConfig
from training.data import LabelledImage, LabelledImages
from training.figures import Numbers, figure, srcc

_FEWEST_IMAGES = 3

_Answer = tuple[int, dict[str, float]]


class Validator:
    """Measures a model on labelled images, again and again while it is trained.

    Args:
        model: The base, with an adapter and a score head in it or not; its weights change meanwhile.
        encoder: Its tokeniser.
        conversation: As the manifest will state it; images with a context are shown with it.
        config: The default template is asked.
        images: Of split ``validation``.

    Raises:
        ConfigurationError: The images have too few labels to rank by.
    """

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        encoder: TextEncoder,
        conversation: Conversation,
        config: StageConfig,
        images: LabelledImages,
    ) -> None:
        template = answer_templates(VOCABULARY, config.score)[config.default_template]
        self._model = model
        self._encoder, self._conversation, self._scale = encoder, conversation, config.score
        self._prompt = build_prompt(template, conversation, encoder)
        self._program = compile_template(template, encoder, encoder.special(IM_END), "segments")
        self.images = images
        # As many at a time as training holds, with their gradients.
        self._batch_size = config.micro_batch_size or config.batch_size
        self._true = rankable_labels(images.annotations, [slot.name for slot in template.slots])

    def measure(self) -> float:
        """Decode all images with the weights as they are; every process calls this and decodes its share.

        Returns:
            SRCC of the score with mos where the default template asks for a score, else the mean SRCC of its
            attributes (expected codes); -1 to 1, higher is better.

        Raises:
            ConfigurationError: The weights give numbers that are not finite.
        """
        self._model.eval()
        try:
            answers = dict(_of_all_processes(list(self._answers())))
        finally:
            self._model.train()
        rows = [answers[index] for index in range(len(self.images))]
        predicted = {name: np.array([row[name] for row in rows]) for name in self._true}
        if not all(np.isfinite(values).all() for values in predicted.values()):
            raise ConfigurationError(
                "training went astray: the model gives numbers that are not finite; lower learning_rate"
            )
        return mean_srcc(predicted, self._true)

    def _answers(self) -> Iterator[_Answer]:
        """(index of the image, predicted values) of this process's share."""
        # A decoder keeps what the weights made of the prompt's beginning, so every measurement needs its own.
        head = getattr(self._model, SCORE_HEAD_MODULE, None)
        decoder = SlotDecoder(self._model, self._prompt, self._program, head)
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        share = range(rank, len(self.images), processes)
        for start in range(0, len(share), self._batch_size):
            chosen = share[start : start + self._batch_size]
            batch = self._batch([self.images[index] for index in chosen], decoder.device)
            columns = self._values(decoder.decode(batch))
            for row, index in enumerate(chosen):
                yield index, {name: values[row] for name, values in columns.items()}

    def _batch(self, images: Sequence[LabelledImage], device: torch.device) -> ImageBatch:
        contexts = [
            encode_context(image.annotation.context, self._conversation, self._encoder).ids
            for image in images
        ]
        return ImageBatch(
            patches=torch.cat([patch_rows(torch.tensor(image.pixels)) for image in images]).to(device),
            grids=tuple(grid_thw(*image.pixels.shape[:2])[1:] for image in images),
            contexts=tuple(contexts),
        )

    def _values(self, decisions: Decisions) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for step, decision in zip(self._program.steps, decisions.slots, strict=True):
            name = step.slot.name
            if name not in self._true:
                continue
            if name == SCORE:
                found[name] = read_score(decision, self._scale.decoder, self._scale).tolist()
            elif isinstance(decision, ChoiceDecision):
                probabilities = decision.probabilities.double().cpu()
                codes = torch.tensor(VOCABULARY[name].codes, dtype=torch.float64)
                found[name] = (probabilities @ codes).tolist()
        return found


def _of_all_processes(answers: list[_Answer]) -> list[_Answer]:
    if not dist.is_initialized():
        return answers
    parts: list[list[_Answer]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, answers)
    return [answer for part in parts for answer in part]


def rankable_labels(labels: Sequence[Annotation], asked: Sequence[str]) -> dict[str, Numbers]:
    """What predictions are compared with: mos if the score is asked for, else the attributes' codes.

    Args:
        labels: Of every image, as the vocabulary knows them.
        asked: Names of the slots of an answer.

    Returns:
        (images,) numbers by name, NaN where an image lacks the label. Attributes with fewer than 3 labels, or
        the same one everywhere, are left out.

    Raises:
        ConfigurationError: Nothing is left.
    """
    if SCORE in asked:
        columns = {SCORE: [label.mos for label in labels]}
    else:
        columns = {
            attribute.name: [_code(label, attribute.name) for label in labels]
            for attribute in VOCABULARY.evaluated
            if attribute.name in asked
        }
    found = {name: np.array(values, dtype=float) for name, values in columns.items()}
    kept = {name: values for name, values in found.items() if _can_rank(values)}
    if not kept:
        wanted = "different mos" if SCORE in asked else "different labels of an attribute that is asked for"
        raise ConfigurationError(
            f"split validation: {len(labels)} images, but not {_FEWEST_IMAGES} of them with {wanted}"
        )
    return kept


def mean_srcc(predicted: Mapping[str, Numbers], true: Mapping[str, Numbers]) -> float:
    """Mean SRCC over what is predicted.

    Args:
        predicted: (n,) numbers by name. The same number for all ranks nothing: 0.
        true: The same names; NaN where there is no label, which leaves the image out.
    """
    found = []
    for name, values in true.items():
        labelled = np.isfinite(values)
        agreement = srcc(predicted[name][labelled], values[labelled])
        found.append(figure(agreement, int(labelled.sum())) or 0.0)
    return float(np.mean(found))


def _code(label: Annotation, name: str) -> float | None:
    attribute, value = VOCABULARY[name], getattr(label, name)
    return None if value is None else float(attribute.codes[attribute.values.index(str(value))])


def _can_rank(values: Numbers) -> bool:
    labelled = values[np.isfinite(values)]
    return len(labelled) >= _FEWEST_IMAGES and bool(np.ptp(labelled) > 0)
