"""A base model on its device: what all scorers that live on it share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.backbone import load_base, load_tokenizer
from model.checks import CheckedAdapter, checked_manifest
from model.fast_paths import use_fast_paths
from model.graphs import CudaRecorder, Recorder
from model.images import ImageLimits
from model.isolated_decoding import PictureReader
from model.score_heads import load_head
from model.tokens import TextEncoder
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from schemas.records import Provenance, Role
from schemas.version import ENGINE_VERSION


@dataclass(frozen=True)
class Host:
    """A loaded base model.

    Attributes:
        model: ``Qwen2VLForConditionalGeneration``, with the fast paths.
        path: Where it was read from.
        name: What rows call it; None = as the adapter's manifest does.
        device: Where it is.
        dtype: Of its weights.
        encoder: Its tokeniser.
        limits: What is too large to decode.
        pictures: Decodes for all scorers.
        cuda_graphs: Whether slot passes are recorded and replayed.
    """

    model: Any
    path: Path
    name: str | None
    device: torch.device
    dtype: torch.dtype
    encoder: TextEncoder
    limits: ImageLimits
    pictures: PictureReader
    cuda_graphs: bool = False

    @classmethod
    def load(
        cls, path: Path, name: str | None, device: torch.device, dtype: torch.dtype,
        limits: ImageLimits, pictures: PictureReader, cuda_graphs: bool = False,
    ) -> Host:  # fmt: skip
        """Load a base model and its tokeniser. Raises ``ConfigurationError``."""
        if cuda_graphs and device.type != "cuda":
            raise ConfigurationError(f"cuda_graphs: there are none on device {device.type}")
        model = load_base(path, device, dtype)
        use_fast_paths(model)
        encoder = TextEncoder(load_tokenizer(path))
        return cls(model, path, name, device, dtype, encoder, limits, pictures, cuda_graphs)

    def recorder(self) -> Recorder | None:
        """What records the passes of a scorer; None where they are computed anew."""
        return CudaRecorder(self.device) if self.cuda_graphs else None

    def check(self, adapter: Path, template: str | None) -> CheckedAdapter:
        """Check an adapter against this base model. Raises ``ConfigurationError`` with every reason."""
        return checked_manifest(adapter, template, str(self.path))

    def head(self, adapter: Path, scale: ScoreScale) -> nn.Module | None:
        """Load an adapter's score head, where it has one. Raises ``ManifestMismatchError``."""
        return load_head(adapter, scale, self.model.config.get_text_config().hidden_size, self.device)

    def provenance(self, adapter: CheckedAdapter, template: str | None, role: Role) -> Provenance:
        """What goes on every row that an adapter makes here."""
        manifest = adapter.manifest
        return Provenance(
            base_model=self.name or manifest.base_model.name,
            adapter=manifest.name,
            adapter_revision=adapter.revision,
            template=template or manifest.answer.default_template,
            decoder=manifest.score.decoder,
            engine_version=ENGINE_VERSION,
            device=_device_name(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            role=role,
        )


def _device_name(device: torch.device) -> str:
    return f"cuda:{torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"
