"""The base model: where it is, which one it is, and how it is loaded.

Finding and identifying it needs no torch: a job is checked where it is submitted, which may be a laptop
without the weights' number format, let alone a GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.tensor_files import current_name, first_values, read_header
from schemas.errors import ConfigurationError
from schemas.manifest import BaseModelIdentity

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen2VLForConditionalGeneration

EMBEDDED = "embedded"
EMBEDDED_BASE: Path = Path(__file__).parent / "embedded" / "base"
EMBEDDED_ADAPTER: Path = Path(__file__).parent / "embedded" / "adapter"
"""The small default model that ships with the package; written by training."""

_HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer.json")

# Fields that decide what the network computes, with the defaults that transformers gives them. Left out on
# purpose: what only names a number format, a version, an initialisation or a limit of use.
_TEXT_FIELDS: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "use_sliding_window": False,
}
_VISION_FIELDS: dict[str, Any] = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "hidden_act": "quick_gelu",
    "mlp_ratio": 4,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_TOKEN_FIELDS: dict[str, Any] = {
    "image_token_id": 151655,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


def resolve_base(name_or_path: str, *, fetch: bool = True) -> Path:
    """Find the directory of a base model.

    Args:
        name_or_path: ``embedded``, a directory, or a name on the Hugging Face hub, which is taken from
            the local cache.
        fetch: Whether a name that is not in the cache is fetched from the hub.

    Raises:
        ConfigurationError: There is none.
    """
    path = EMBEDDED_BASE if name_or_path == EMBEDDED else Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if name_or_path == EMBEDDED:
        raise ConfigurationError("base model: the embedded model is missing from this installation")
    if name_or_path.startswith((".", "~")) or name_or_path.count("/") != 1 or path.is_absolute():
        raise ConfigurationError(f"base model: there is no directory {name_or_path!r}")
    return _from_hub(name_or_path, fetch=fetch)


def _from_hub(name: str, *, fetch: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    reasons = []
    for local_files_only in (True, False) if fetch else (True,):
        try:
            folder = huggingface_hub.snapshot_download(
                name, allow_patterns=list(_HUB_FILES), local_files_only=local_files_only
            )
        except (OSError, ValueError, HfHubHTTPError) as error:
            reasons.append(str(error).strip().splitlines()[0])
            continue
        path = Path(folder)
        if not local_files_only or ((path / "config.json").exists() and any(path.glob("*.safetensors"))):
            return path
    raise ConfigurationError(
        f"base model {name!r} is neither a directory here nor in the local Hugging Face cache, and could not "
        f"be fetched ({reasons[-1]}). On a machine without network, fetch it elsewhere "
        f"(hf download {name}), copy the folder, and name its path; with a filled cache set HF_HUB_OFFLINE=1"
    )


def base_identity(path: Path, name: str) -> BaseModelIdentity:
    """Say which base model a directory holds, from its small files, tensor headers and first values.

    The same weights give the same hashes whichever release of transformers saved them, in whichever
    number format, in however many files.

    Args:
        path: Directory with ``config.json``, ``tokenizer.json`` and safetensors.
        name: What people call it.

    Raises:
        ConfigurationError: A file is missing or unreadable, or it is no Qwen2-VL.
    """
    tokenizer = _read(path / "tokenizer.json")
    tensors = sorted(_tensors(path).items())
    return BaseModelIdentity(
        name=name,
        config_sha256=_sha256(architecture(_read_json(path / "config.json"))),
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
        tensors_sha256=_sha256([[tensor, list(shape), values] for tensor, (shape, values) in tensors]),
    )


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ``config.json`` that decide what the network computes, in one form.

    Hub configurations hold the text fields at the top, newer ones under ``text_config``; rotary
    parameters have had three spellings.

    Raises:
        ConfigurationError: It is no Qwen2-VL.
    """
    if config.get("model_type") != "qwen2_vl":
        raise ConfigurationError(f"base model: model_type is {config.get('model_type')!r}, not 'qwen2_vl'")
    text = {**config, **(config.get("text_config") or {})}
    vision = config.get("vision_config") or {}
    found: dict[str, Any] = {
        "text": {field: text.get(field, default) for field, default in _TEXT_FIELDS.items()},
        "vision": {field: vision.get(field, default) for field, default in _VISION_FIELDS.items()},
        "tokens": {field: config.get(field, default) for field, default in _TOKEN_FIELDS.items()},
        "rope": _rope(text),
        # Released before and after it moved from the text part to the top.
        "tie_word_embeddings": any(part.get("tie_word_embeddings", False) for part in (config, text)),
    }
    if found["text"]["use_sliding_window"]:
        found["sliding_window"] = [text.get("sliding_window", 4096), text.get("max_window_layers", 80)]
    return found


def _rope(text: Mapping[str, Any]) -> dict[str, Any]:
    rope = dict(text.get("rope_scaling") or text.get("rope_parameters") or {})
    kind = rope.pop("type", "default")
    kind = rope.pop("rope_type", kind)
    theta = rope.pop("rope_theta", text.get("rope_theta", 1e6))
    return {**rope, "rope_type": "default" if kind == "mrope" else kind, "rope_theta": float(theta)}


def _tensors(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and first values of every tensor, by current name."""
    index = path / "model.safetensors.index.json"
    shards = _shards(index) if index.exists() else ["model.safetensors"]
    stored: dict[str, tuple[tuple[int, ...], str]] = {}
    for shard in shards:
        shapes, values = read_header(path / shard).shapes, first_values(path / shard)
        stored |= {name: (shapes[name], values[name]) for name in shapes}
    # A tied output head is stored by some releases and left out by others.
    tied = architecture(_read_json(path / "config.json"))["tie_word_embeddings"]
    return {
        current_name(name): said for name, said in stored.items() if not (tied and name == "lm_head.weight")
    }


def _shards(index: Path) -> list[str]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ConfigurationError(f"base model: {index} has no weight_map")
    shards = sorted({str(name) for name in weight_map.values()})
    if any(Path(name).name != name for name in shards):
        raise ConfigurationError(f"base model: {index} names files outside its directory")
    return shards


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"base model: cannot read {path} ({error.strerror})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise ConfigurationError(f"base model: {path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"base model: {path} holds no JSON object")
    return content


def _sha256(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_base(path: Path, device: torch.device, dtype: torch.dtype) -> Qwen2VLForConditionalGeneration:
    """Load the base model for inference: eval mode, no gradients, SDPA attention, safetensors only.

    Args:
        path: Directory, from ``resolve_base``.
        device: Where the weights go; nothing falls back to another.
        dtype: Number format of the weights.

    Raises:
        ConfigurationError: Weights are missing, left over or of another shape. transformers would fill
            missing ones with random numbers and go on.
    """
    from transformers import Qwen2VLForConditionalGeneration

    if (path / "adapter_config.json").exists():
        # transformers would load it on top, unasked.
        raise ConfigurationError(
            f"base model: {path} holds an adapter (adapter_config.json); name a plain base"
        )
    from transformers.utils import logging

    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # its bars would run through ours
    try:
        model, report = Qwen2VLForConditionalGeneration.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"base model: cannot load {path} ({error})") from error
    finally:
        if shows_bars:
            logging.enable_progress_bar()
    problems = [
        f"base model: {what.replace('_', ' ')}: {', '.join(sorted(map(str, report[what]))[:5])}"
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report[what]
    ]
    if problems:
        raise ConfigurationError(problems)
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(path: Path) -> Tokenizer:
    """Load ``tokenizer.json`` of a base model.

    Raises:
        ConfigurationError: It is missing or unreadable.
    """
    from tokenizers import Tokenizer

    content = _read(path / "tokenizer.json").decode(errors="replace")
    try:
        return Tokenizer.from_str(content)
    # The tokenizers library raises bare Exception for a file it cannot parse.
    except Exception as error:
        raise ConfigurationError(f"base model: {path / 'tokenizer.json'} is damaged ({error})") from error
