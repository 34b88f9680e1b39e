"""The scorer: an adapter on its base model, ready to score photographs. The library's front door.

    from model.scorer import Scorer

    scorer = Scorer.load()                                # or Scorer.load("path/to/adapter")
    for result in scorer.score(["beach.jpg", "cat.png"]):
        print(result.score, result.score_std, result.exposure)

Scores lie in [0, 10), higher is better; ``scorer.describe()`` says how to read them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from model.backbone import EMBEDDED_ADAPTER
from model.batching import RowSize, plan_micro_batches
from model.checks import CheckedAdapter, checked_manifest
from model.compiling import compile_template
from model.conversation import build_prompt, encode_context
from model.decisions import Decisions
from model.decoding import SlotDecoder
from model.denormals import flush_denormals
from model.fp8 import Product, use_fp8
from model.hosting import Host
from model.images import ImageLimits, Room, decoded_bytes, unbounded
from model.lora import MergedAdapter, load_adapter_weights, merge_adapter
from model.patches import grid_thw, patch_rows
from model.placement import fp8_product_on, place_base, token_budget
from model.prepared import PreparedImage, StagedBatch
from model.ragged import ImageBatch
from model.reading import PredictionReader
from model.staging import PixelStage
from model.templates import answer_template
from model.tokens import IM_END
from model.unmerged import UnmergedAdapters
from schemas.errors import ConfigurationError, FetchError, ScoringError
from schemas.manifest import AdapterManifest, Decoder
from schemas.records import Prediction, Provenance, Role

if TYPE_CHECKING:
    from os import PathLike

    Photograph = str | PathLike[str] | bytes

_Answer = TypeVar("_Answer")

_LIBRARY_MICRO_BATCH = 32
_DECODERS: dict[Decoder, str] = {
    "digit_tree": "mean over the digit tree, with its standard deviation",
    "per_position": "expected digits, each given the greedy ones before it (wrong at carries); the standard "
    "deviation is the digit tree's",
    "greedy": "the number that greedy decoding writes; the standard deviation is the digit tree's",
    "mean": "mean over levels or bins, with its standard deviation",
    "mode": "the most probable level or bin; the standard deviation is about the mean",
    "point": "one number, without a standard deviation",
}


class Scorer:
    """An adapter on its base, answering one template. Made by ``Scorer.load``.

    ``prepare`` and ``stage`` may run in many threads; ``predict`` runs one micro-batch at a time.

    Attributes:
        manifest: Of the adapter.
        provenance: Goes on every row that this scorer makes.
        token_budget: Visual tokens that a micro-batch should hold on this device.
        reader: Turns decisions into predictions.
    """

    def __init__(
        self, host: Host, manifest: AdapterManifest, provenance: Provenance,
        score_head: nn.Module | None, turn: Callable[[], AbstractContextManager[object]],
    ) -> None:  # fmt: skip
        encoder = host.encoder
        template = answer_template(provenance.template, manifest.vocabulary, manifest.score)
        program = compile_template(template, encoder, encoder.special(IM_END), manifest.answer.tokenisation)
        self.manifest = manifest
        self.provenance = provenance
        self.encoder = encoder
        prompt = build_prompt(template, manifest.conversation, encoder)
        self.decoder = SlotDecoder(host.model, prompt, program, score_head, recorder=host.recorder())
        self.device: torch.device = self.decoder.device
        row = RowSize.of(len(prompt.prefix + prompt.middle + prompt.closing), program)
        self.token_budget = token_budget(host, row, manifest.image.max_pixels)
        self.reader = PredictionReader(program, manifest, encoder)
        self._host = host
        self._turn = turn
        self._merged: MergedAdapter | None = None
        self._stage = PixelStage(self.device)

    @classmethod
    def load(
        cls,
        adapter: str | Path | None = None,
        *,
        base_model: str | None = None,
        template: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        limits: ImageLimits | None = None,
        isolate_decoders: bool = False,
        keep_base: bool = False,
        fp8: bool = False,
        cuda_graphs: bool = False,
    ) -> Scorer:
        """Load, check and merge an adapter.

        Args:
            adapter: Its directory; None = the small embedded model, which knows synthetic degradations
                and **not human taste**.
            base_model: Name or path of the base; None = the one that the manifest names.
            template: Answer template; None = the adapter's default.
            device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` (CUDA if there is a device). Never another
                than asked for.
            dtype: ``float32`` (default on CPU), ``bfloat16`` (default on CUDA) or ``float16``.
            limits: What is too large to decode.
            isolate_decoders: Decode rare formats (GIF, BMP, TIFF) in a process of its own, so that a
                decoder that crashes costs one picture and not this process.
            keep_base: Keep the base tensors that the adapter changes in host memory, so that another one can
                take its place (``successor``).
            fp8: Linear layers of the language model in FP8 (``model.fp8``), on GPUs that have it; not with
                ``keep_base``. Scores differ a little: ``python -m model --fp8-check`` says how much.
            cuda_graphs: Record slot passes, padded to few shapes, as CUDA graphs and replay them
                (``model.graphs``). Off by default: not yet measured on a GPU. Of no use to a template that
                begins with free text.

        Raises:
            ConfigurationError: With every reason found; a mismatch names the manifest's fields.
        """
        if fp8 and keep_base:
            raise ConfigurationError(
                "fp8: an adapter that is to be replaced must stay in the full number format"
            )
        flush_denormals()
        product = fp8_product_on(device, dtype) if fp8 else None
        directory = EMBEDDED_ADAPTER if adapter is None else Path(adapter)
        checked = checked_manifest(directory, template, base_model)
        host = place_base(checked, base_model, device, dtype, limits, isolate_decoders, cuda_graphs)
        if keep_base:
            merged = merge_adapter(host.model, load_adapter_weights(directory))
            return cls._merged_on(host, directory, checked, template, merged)
        merge_adapter(host.model, load_adapter_weights(directory), keep_base=False)
        lock = threading.Lock()
        scorer = cls._on(host, directory, checked, template, lambda: lock)
        return scorer if product is None else scorer.in_fp8(product)

    @classmethod
    def load_pair(
        cls,
        champion: str | Path | None,
        challenger: str | Path,
        *,
        base_model: str | None = None,
        template: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        limits: ImageLimits | None = None,
        isolate_decoders: bool = False,
    ) -> tuple[Scorer, Scorer]:
        """Load two adapters beside each other on one base, unmerged (``model.unmerged``).

        Args:
            champion: A directory; None = the embedded adapter.
            challenger: A directory; the provenance of its scorer says so.
            base_model: As for ``load``, as are the following.
            template: Asked of both; None = each one's own default.
            device: Of both.
            dtype: Of the weights.
            limits: What is too large to decode.
            isolate_decoders: Decode rare formats in a process of its own.

        Raises:
            ConfigurationError: With every reason found for either.
        """
        directories = EMBEDDED_ADAPTER if champion is None else Path(champion), Path(challenger)
        checked = checked_manifest(directories[0], template, base_model)
        host = place_base(checked, base_model, device, dtype, limits, isolate_decoders)
        both = checked, host.check(directories[1], template)
        roles: tuple[Role, Role] = ("champion", "challenger")
        weights = [load_adapter_weights(directory) for directory in directories]
        adapters = UnmergedAdapters(host.model, dict(zip(roles, weights, strict=True)))
        first, second = (
            cls._on(host, directory, found, template, partial(adapters.turn, role), role)
            for role, directory, found in zip(roles, directories, both, strict=True)
        )
        return first, second

    @classmethod
    def _on(
        cls, host: Host, directory: Path, checked: CheckedAdapter, template: str | None,
        turn: Callable[[], AbstractContextManager[object]], role: Role = "champion",
    ) -> Scorer:  # fmt: skip
        manifest = checked.manifest
        head = host.head(directory, manifest.score)
        return cls(host, manifest, host.provenance(checked, template, role), head, turn)

    @classmethod
    def _merged_on(
        cls, host: Host, directory: Path, checked: CheckedAdapter, template: str | None, merged: MergedAdapter
    ) -> Scorer:
        scorer = cls._on(host, directory, checked, template, merged.turn)
        scorer._merged = merged
        return scorer

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights, but those in FP8."""
        return self._host.dtype

    def in_fp8(self, product: Product) -> Scorer:
        """Turn the model's language tower into FP8, for good; this scorer is of no use any more.

        Args:
            product: See ``model.fp8.use_fp8``.

        Raises:
            ConfigurationError: The model's shape does not allow it.
            ValueError: This scorer was loaded with ``keep_base``.
        """
        if self._merged is not None:
            raise ValueError("an adapter that is to be replaced must stay in the full number format")
        use_fp8(self._host.model, product)
        provenance = replace(self.provenance, dtype=f"{self.provenance.dtype}+fp8")
        return Scorer(self._host, self.manifest, provenance, self.decoder.score_head, self._turn)

    def successor(self, adapter: str | Path, *, template: str | None = None) -> Scorer:
        """Make the scorer of another adapter on the same base, ready to take this one's place.

        Everything is checked, and its weights wait in host memory. Until ``give_way`` this scorer goes on,
        also while this runs, and the successor cannot predict.

        Args:
            adapter: Its directory.
            template: Answer template; None = the adapter's default.

        Raises:
            ConfigurationError: It cannot take over here; with every reason.
            ValueError: This scorer was not loaded with ``keep_base``.
        """
        if self._merged is None:
            raise ValueError("load the first scorer with keep_base=True")
        directory = Path(adapter)
        checked = self._host.check(directory, template)
        merged = MergedAdapter(self._host.model, load_adapter_weights(directory))
        return self._merged_on(self._host, directory, checked, template, merged)

    def give_way(self, successor: Scorer) -> None:
        """Let a ``successor`` take this scorer's place in the model, after the micro-batch in work.

        From then on this scorer raises ``RuntimeError`` where it should predict.

        Raises:
            ConfigurationError: The device has no memory left for it; this scorer goes on.
            RuntimeError: This scorer does not hold the model.
        """
        if self._merged is None or successor._merged is None:
            raise ValueError("load the first scorer with keep_base=True")
        try:
            self._merged.give_way(successor._merged)
        except torch.OutOfMemoryError as error:
            raise ConfigurationError(f"the device has no memory left to switch adapters: {error}") from error

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> PreparedImage:
        """Decode one image and tokenise its context. Thread-safe; touches no device.

        Args:
            data: The file's bytes.
            context: Text about this image; ignored where the adapter takes none (then
                ``context_used`` is None).
            room: Is held while the picture is being decoded.

        Raises:
            DecodeError: Not a complete image in an accepted format, or beyond the limits.
        """
        pictures = self._host.pictures
        facts = pictures.inspect_image(data, self._host.limits)
        with room(decoded_bytes(facts)):
            pixels = pictures.decode_image(data, facts, self.manifest.image)
        manifest = self.manifest
        words = encode_context(context, manifest.conversation, self.encoder, manifest.answer.tokenisation)
        return PreparedImage(pixels, facts, words)

    def stage(self, prepared: Sequence[PreparedImage]) -> StagedBatch:
        """Begin to send the pixels of a micro-batch of at least one image to the device. Thread-safe.

        Raises:
            torch.OutOfMemoryError: The device has no room for them.
        """
        return StagedBatch(tuple(prepared), self._stage.send([image.pixels for image in prepared]))

    def predict(self, prepared: Sequence[PreparedImage] | StagedBatch) -> list[Prediction]:
        """Score one micro-batch.

        Args:
            prepared: The images, or what ``stage`` made of them while the micro-batch before was scored.

        Returns:
            One prediction an image, in order. A prediction does not depend on the other images beyond
            rounding.
        """
        if not prepared:
            return []
        staged = prepared if isinstance(prepared, StagedBatch) else self.stage(prepared)
        return self.reader.read(self.decide(staged), [image.context_used for image in staged.images])

    def decide(self, prepared: Sequence[PreparedImage] | StagedBatch) -> Decisions:
        """Decode one micro-batch of at least one image, for who reads more of it than predictions."""
        flush_denormals()
        staged = prepared if isinstance(prepared, StagedBatch) else self.stage(prepared)
        grids = tuple(grid_thw(*image.pixels.shape[:2])[1:] for image in staged.images)
        patches = torch.cat([patch_rows(pixels) for pixels in staged.pixels.take()])
        images = ImageBatch(patches, grids, tuple(image.context.ids for image in staged.images))
        with self._turn():
            return self.decoder.decode(images)

    def in_micro_batches(
        self,
        prepared: Sequence[PreparedImage],
        answer: Callable[[Sequence[PreparedImage]], Sequence[_Answer]],
    ) -> list[_Answer]:
        """Put images into micro-batches that suit the device, and their answers back into order.

        Args:
            prepared: Any number of images.
            answer: Gives one answer an image of a micro-batch, in its order (``predict``).
        """
        tokens = [image.visual_tokens for image in prepared]
        answers: dict[int, _Answer] = {}
        for batch in plan_micro_batches(tokens, self.token_budget, _LIBRARY_MICRO_BATCH):
            answers.update(zip(batch, answer([prepared[index] for index in batch]), strict=True))
        return [answers[index] for index in range(len(prepared))]

    def score(
        self, photographs: Iterable[Photograph], contexts: Iterable[str | None] | None = None
    ) -> list[Prediction]:
        """Score photographs.

        Args:
            photographs: Paths, or files' bytes.
            contexts: Text about each, in the same order.

        Returns:
            One prediction a photograph, in order.

        Raises:
            FetchError, DecodeError: For the first photograph that cannot be read; it names it.
            ValueError: There are not as many contexts as photographs.
            TypeError: One photograph instead of several.
        """
        if isinstance(photographs, (str, bytes)):
            raise TypeError("score takes several photographs: scorer.score([photograph])")
        sources = list(photographs)
        texts = [None] * len(sources) if contexts is None else list(contexts)
        if len(texts) != len(sources):
            raise ValueError(f"{len(sources)} photographs, but {len(texts)} contexts")
        found: list[Prediction] = []
        pairs = iter(zip(sources, texts, strict=True))
        while part := list(islice(pairs, 4 * _LIBRARY_MICRO_BATCH)):
            prepared = [self._read(source, text) for source, text in part]
            found += self.in_micro_batches(prepared, self.predict)
        return found

    def _read(self, source: Photograph, context: str | None) -> PreparedImage:
        if isinstance(source, bytes):
            return self.prepare(source, context=context)
        try:
            return self.prepare(Path(source).read_bytes(), context=context)
        except OSError as error:
            raise FetchError(error.strerror or str(error), image_uri=str(source)) from error
        except ScoringError as error:
            error.image_uri = str(source)
            raise

    def describe(self) -> str:
        """Say how to read this scorer's numbers, in a few lines."""
        scale = self.manifest.score
        lines = [
            f"{self.provenance.adapter} ({self.provenance.adapter_revision[:12]}) "
            f"on {self.provenance.base_model}, {self.provenance.device}, {self.provenance.dtype}",
            f"score: [0, 10), higher is better; {_DECODERS[scale.decoder]}",
            f"score_native: {scale.native_low:g}–{scale.native_high:g}, linear in score",
            "attributes: <name> decided value, <name>_expected code (1 = worst), <name>_confidence",
        ]
        if self.manifest.training.synthetic:
            lines.append("trained on SYNTHETIC degradations: these scores are not human taste")
        return "\n".join(lines)
