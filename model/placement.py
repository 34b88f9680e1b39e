"""Where a base model is put: the device, the number format of its weights there, the memory that is left."""

from __future__ import annotations

import torch

from model.batching import ModelSize, RowSize, gpu_token_budget
from model.checks import CheckedAdapter
from model.fp8 import Product, fp8_product
from model.hosting import Host
from model.images import ImageLimits
from model.isolated_decoding import CRASH_PRONE, PictureReader
from model.patches import MERGE, PATCH
from schemas.errors import ConfigurationError

_CPU_TOKENS = 2_048
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that exists.

    Raises:
        ConfigurationError: It does not; nothing is moved elsewhere.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(f"device {device!r}: use auto, cpu, cuda or cuda:N") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if wanted.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"device {device!r}: use auto, cpu, cuda or cuda:N")
    return wanted


def place_base(
    checked: CheckedAdapter, base_model: str | None, device: str, dtype: str | None,
    limits: ImageLimits | None, isolate_decoders: bool, cuda_graphs: bool = False,
) -> Host:  # fmt: skip
    """Load the base model of a checked adapter; arguments as of ``Scorer.load``.

    Raises:
        ConfigurationError: There is no such device or number format, or the base does not load.
    """
    assert checked.base_path is not None  # it was needed
    target = resolve_device(device)
    number_format = _resolve_dtype(dtype, target)
    pictures = PictureReader(CRASH_PRONE if isolate_decoders else ())
    return Host.load(
        checked.base_path, base_model, target, number_format, limits or ImageLimits(), pictures, cuda_graphs
    )


def fp8_product_on(device: str, dtype: str | None) -> Product:
    """Give the FP8 product of a device, as ``Scorer.load`` names it and the number format of the rest.

    Raises:
        ConfigurationError: There is no such device or number format, or no FP8 with it.
    """
    target = resolve_device(device)
    return fp8_product(target, _resolve_dtype(dtype, target))


def token_budget(host: Host, row: RowSize, max_pixels: int) -> int:
    """Say how many visual tokens a micro-batch should hold where a base model is.

    Args:
        host: The base model; on a GPU its memory decides, as it is now.
        row: What an image costs beside its visual tokens.
        max_pixels: Of an image.
    """
    if host.device.type != "cuda":
        return _CPU_TOKENS
    model = ModelSize.of(host.model.config, host.dtype.itemsize)
    return gpu_token_budget(_free_bytes(host.device), model, row, max_pixels // (PATCH * MERGE) ** 2)


def _free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that torch may still use: those that nobody has, and those that torch has in reserve."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _resolve_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    name = dtype or ("bfloat16" if device.type == "cuda" else "float32")
    if name not in _DTYPES:
        raise ConfigurationError(f"dtype {name!r}: use {', '.join(_DTYPES)}")
    return _DTYPES[name]
