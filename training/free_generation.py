"""A model that writes its answers freely, word after word: for bases that no adapter taught our form.

transformers' own model and ``generate()``, greedily, with nothing forced and nothing forbidden; slot decoding
has no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from model.backbone import load_base, load_tokenizer
from model.batching import plan_micro_batches
from model.conversation import build_prompt, encode_context
from model.images import ImageLimits, decode_image, inspect_image
from model.lora import load_adapter_weights, merge_adapter
from model.patches import grid_thw, normalised_patches
from model.placement import resolve_device
from model.prepared import PreparedImage
from model.scores import to_native_scale
from model.templates import SCORE
from model.tokens import IM_END, IMAGE_PAD, TextEncoder
from schemas.manifest import ScoreScale
from schemas.records import Prediction, Provenance
from schemas.version import ENGINE_VERSION
from training.evaluation import Parsing
from training.free_answers import ReadAnswer, WrittenAnswer, asked_targets, count_failures, read_answer
from training.greedy_writing import write_greedily
from training.respondent import Respondent
from training.scoring import ScoredImages, answer_images
from training.video_prediction import video_prediction

DECODER = "generate"
"""What rows and reports call this way to answer."""

MAX_NEW_TOKENS = 512
"""A filled form has about 80 of Qwen2-VL's; the rest is for models that explain themselves."""

_CPU_TOKENS, _GPU_TOKENS, _MOST_IMAGES = 2_048, 16_384, 32  # of a micro-batch
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class WrittenImages:
    """What a model wrote about images, and what could be read out of it.

    Attributes:
        scored: Predictions of the images that could be read; a value that its answer lacks is None.
        answers: Of the same images: one, or one a frame of a video.
        parsing: Of all these answers.
    """

    scored: ScoredImages
    answers: tuple[tuple[WrittenAnswer, ...], ...]
    parsing: Parsing


class FreeWriter:
    """A model with its question, ready to write about images. Made by ``FreeWriter.load``.

    Attributes:
        respondent: Who it is.
        provenance: Of its answers.
        max_new_tokens: Longer answers are cut off.
    """

    def __init__(
        self,
        model: Any,
        encoder: TextEncoder,
        respondent: Respondent,
        provenance: Provenance,
        max_new_tokens: int,
    ) -> None:
        self.respondent = respondent
        self.provenance = provenance
        self.max_new_tokens = max_new_tokens
        self._model = model
        self._encoder = encoder
        self._prompt = build_prompt(respondent.template, respondent.conversation, encoder)

    @classmethod
    def load(
        cls, respondent: Respondent, *, device: str = "auto", max_new_tokens: int = MAX_NEW_TOKENS
    ) -> FreeWriter:
        """Load a base, and merge its adapter where there is one; bfloat16 on a GPU, else float32.

        Args:
            respondent: Who is to answer.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            max_new_tokens: Of an answer, at least 1.

        Raises:
            ConfigurationError: No such device, or weights that do not fit.
        """
        target = resolve_device(device)
        dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
        model = load_base(respondent.base_path, target, dtype)
        if respondent.adapter is not None:
            merge_adapter(model, load_adapter_weights(respondent.adapter), keep_base=False)
        cuda = target.type == "cuda"
        provenance = Provenance(
            base_model=respondent.base_model,
            adapter=respondent.name,
            adapter_revision=respondent.revision,
            template=respondent.template.name,
            decoder=DECODER,
            engine_version=ENGINE_VERSION,
            device=f"cuda:{torch.cuda.get_device_name(target)}" if cuda else "cpu",
            dtype=str(dtype).removeprefix("torch."),
        )
        encoder = TextEncoder(load_tokenizer(respondent.base_path))
        return cls(model, encoder, respondent, provenance, max_new_tokens)

    def prepare(self, data: bytes, *, context: str | None = None) -> PreparedImage:
        """Decode one image and tokenise its context, as ``Scorer.prepare`` does.

        Raises:
            DecodeError: Not a complete image in an accepted format, or beyond the limits.
        """
        who = self.respondent
        facts = inspect_image(data, ImageLimits())
        words = encode_context(context, who.conversation, self._encoder, who.tokenisation)
        return PreparedImage(decode_image(data, facts, who.image), facts, words)

    def in_micro_batches(
        self,
        prepared: Sequence[PreparedImage],
        answer: Callable[[Sequence[PreparedImage]], Sequence[_Answer]],
    ) -> list[_Answer]:
        """Put images into micro-batches that suit the device, and their answers back into order."""
        budget = _GPU_TOKENS if self._model.device.type == "cuda" else _CPU_TOKENS
        tokens = [image.visual_tokens for image in prepared]
        answers: dict[int, _Answer] = {}
        for batch in plan_micro_batches(tokens, budget, _MOST_IMAGES):
            answers.update(zip(batch, answer([prepared[index] for index in batch]), strict=True))
        return [answers[index] for index in range(len(prepared))]

    @torch.inference_mode()
    def write(self, batch: Sequence[PreparedImage]) -> list[WrittenAnswer]:
        """Write about every image of a micro-batch."""
        device = self._model.device
        pad, end = self._encoder.special(IMAGE_PAD), self._encoder.special(IM_END)
        prompts = [self._prompt.ids(pad, image.visual_tokens, image.context.ids) for image in batch]
        patches = [normalised_patches(torch.from_numpy(image.pixels).to(device)) for image in batch]
        stops = self._stops()
        torch.set_flush_denormal(True)  # they cost a tiny model most of its time on a CPU
        grids = [grid_thw(*image.pixels.shape[:2]) for image in batch]
        written = write_greedily(
            self._model,
            prompts,
            end,
            stops,
            self.max_new_tokens,
            pixel_values=torch.cat(patches),
            image_grid_thw=torch.tensor(grids, device=device),
            image_pad=pad,
        )
        return [self._answer(row, stops) for row in written]

    def _stops(self) -> list[int]:
        """What ends an answer: the conversation's end, and what the base's maker says ends a text."""
        own = self._model.generation_config.eos_token_id
        more = own if isinstance(own, list) else [own]
        return sorted({self._encoder.special(IM_END), *(token for token in more if token is not None)})

    def _answer(self, ids: Sequence[int], stops: Sequence[int]) -> WrittenAnswer:
        ends = [index for index, token in enumerate(ids) if token in stops]
        return WrittenAnswer(self._encoder.decode(ids[: ends[0]] if ends else ids), complete=bool(ends))


def write_about_images(
    writer: FreeWriter,
    images: Sequence[Path | bytes],
    contexts: Sequence[str | None],
    *,
    allow_failures: bool = False,
) -> WrittenImages:
    """Have a model write about images, and videos by one frame a second, and read what it wrote.

    Args:
        writer: The model.
        images: Files, videos by their ending, or images' bytes.
        contexts: Text about each, in the same order.
        allow_failures: Whether an image that cannot be read is counted and the others are written about.

    Raises:
        ConfigurationError: As ``training.scoring.score_images`` does.
    """
    who = writer.respondent

    def answer(batch: Sequence[PreparedImage]) -> list[tuple[WrittenAnswer, ReadAnswer, Prediction]]:
        found = []
        for image, written in zip(batch, writer.write(batch), strict=True):
            read = read_answer(written, who.template, who.vocabulary)
            found.append((written, read, _prediction(read, who.score, image.context_used)))
        return found

    answered = answer_images(writer, images, contexts, answer, allow_failures=allow_failures)
    predictions = [video_prediction([said for _, _, said in frames]) for frames in answered.answers]
    every = [one for frames in answered.answers for one in frames]
    asked = asked_targets(who.template)
    return WrittenImages(
        scored=ScoredImages(predictions, {}, answered.rows, answered.failures),
        answers=tuple(tuple(written for written, _, _ in frames) for frames in answered.answers),
        parsing=count_failures(
            [written for written, _, _ in every], [read for _, read, _ in every], asked, writer.max_new_tokens
        ),
    )


def _prediction(read: ReadAnswer, scale: ScoreScale, context: str | None) -> Prediction:
    values: dict[str, Any] = dict(read.values)
    if read.score is not None:
        values |= {SCORE: read.score, "score_native": to_native_scale(read.score, scale)}
    return Prediction(context_used=context, **values)
