"""Safetensors headers without torch, and Qwen2-VL's tensor names in one layout.

transformers renamed Qwen2-VL's modules in 4.52. Every published checkpoint and adapter has the old names,
and transformers 5 writes checkpoints (not adapters) with the old names again; in memory they are new.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.errors import ConfigurationError

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_SAMPLED_VALUES = 32

_OLD_PREFIXES = (
    ("visual.", "model.visual."),
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
)


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file says about itself.

    Attributes:
        shapes: Tensor name → shape, as stored.
        metadata: The header's free text fields.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> TensorHeader:
    """Read the header only: 8 bytes of length (little-endian), then JSON.

    Raises:
        ConfigurationError: The file cannot be read, or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise ValueError(f"header of {length} bytes")
            content = json.loads(file.read(length))
        metadata = content.pop("__metadata__", {})
        shapes = {name: tuple(entry["shape"]) for name, entry in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not a readable safetensors file ({error})") from error
    return TensorHeader(shapes=shapes, metadata=metadata)


def first_values(path: Path) -> dict[str, str]:
    """Read the first values of every tensor, rounded to bfloat16: what tells two trainings apart.

    Headers alone cannot: a base and its instruction-tuned sister have the same names and shapes.

    Returns:
        Tensor name → hex of up to 32 bfloat16 numbers. The same whether stored as float32 or bfloat16;
        numbers of other formats are taken as the bytes they are.

    Raises:
        ConfigurationError: The file cannot be read, or is no safetensors file.
    """
    found = {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = json.loads(file.read(length))
            content.pop("__metadata__", None)
            for name, entry in content.items():
                start, end = entry["data_offsets"]
                file.seek(8 + length + start)
                found[name] = _as_bfloat16(file.read(min(end - start, 4 * _SAMPLED_VALUES)), entry["dtype"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not a readable safetensors file ({error})") from error
    return found


def _as_bfloat16(raw: bytes, dtype: str) -> str:
    if dtype == "BF16":
        return raw[: 2 * _SAMPLED_VALUES].hex()
    if dtype == "F16":
        values = np.frombuffer(raw[: 2 * _SAMPLED_VALUES], "<f2").astype("<f4").view("<u4")
    elif dtype == "F32":
        values = np.frombuffer(raw, "<u4")
    else:
        return raw.hex()
    # Round to nearest, ties to even, as torch does.
    rounded = (values + 0x7FFF + ((values >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes().hex()


def sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order, in place.

    The library writes it in random order; equal adapters shall be equal files, with one hash.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        content = json.loads(file.read(length))
        content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: the header does not fit into its place when written again")
        file.seek(8)
        file.write(text.ljust(length))  # the format pads headers with blanks


def current_name(name: str) -> str:
    """Give a module or tensor of Qwen2-VL by its current name; current names stay as they are."""
    for old, new in _OLD_PREFIXES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def old_name(name: str) -> str:
    """Give a module or tensor of Qwen2-VL by the name it had before transformers 4.52."""
    for old, new in _OLD_PREFIXES:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name
