"""An adapter for other people: a directory that plain PEFT loads, or merged weights for transformers."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model.adapter_config import (
    ADAPTER_CONFIG_NAME,
    PEFT_PREFIX,
    SCORE_HEAD_NAME,
    WEIGHTS_NAME,
    tensor_name,
)
from model.checks import CheckedAdapter, checked_manifest
from model.tensor_files import read_header
from schemas.errors import ConfigurationError
from schemas.manifest import MANIFEST_NAME
from training.model_card import model_card

if TYPE_CHECKING:
    import torch

CARD_NAME = "README.md"
_LORA_MODULE = re.compile(rf"{re.escape(PEFT_PREFIX)}(?P<module>.+)\.lora_A\.weight")
_BASE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
"""What stands beside the weights of a base and stays as it is; only the first is always there."""


def export_adapter(
    adapter: Path,
    output: Path,
    *,
    merge: bool,
    base_model: str | None = None,
    dtype: str | None = None,
) -> None:
    """Write an adapter so that others load it without this package; complete, or not at all.

    Without ``merge``: the adapter's own files, which PEFT reads as they are, and a model card. The directory
    stays an adapter of ours, with the same revision. With ``merge``: weights, configuration and tokeniser of
    the base with the adapter in it (W + scale · B·A in float32, rounded once), and a model card.

    Args:
        adapter: Directory of the adapter; it is checked like before serving.
        output: Must not exist, or be empty.
        merge: Which of the two.
        base_model: Name or path of the base; None = the one that the manifest names. Not needed without
            ``merge``.
        dtype: Number format of merged weights (``float32``, ``bfloat16``, ``float16``); None = the base's.

    Raises:
        ConfigurationError: With every reason: the adapter does not hold here, PEFT would not find what it
            changes, or the output holds something.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"{output} exists already; nothing is exported over it")
    checked = checked_manifest(adapter, None, base_model, needs_base=merge)
    problems = [] if merge else _hidden_from_peft(adapter)
    if problems:
        raise ConfigurationError(problems)
    with _complete_or_absent(output) as folder:
        if merge:
            _write_merged(adapter, checked, folder, dtype)
        else:
            for name in (*checked.manifest.files, MANIFEST_NAME):
                shutil.copyfile(adapter / name, folder / name)
        card = model_card(checked.manifest, checked.revision, merged=merge)
        (folder / CARD_NAME).write_text(card, encoding="utf-8")


@contextmanager
def _complete_or_absent(output: Path) -> Iterator[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp's directories are for their owner only
        os.replace(unfinished, output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _hidden_from_peft(adapter: Path) -> list[str]:
    """Find what plain PEFT would pass over with a warning, and give the untuned base instead.

    It looks for keys and modules under their current names only; our loader also knows the old ones.
    """
    keys = read_header(adapter / WEIGHTS_NAME).shapes
    old = sorted(key for key in keys if key != PEFT_PREFIX + tensor_name(key))
    if old:
        return [
            f"{WEIGHTS_NAME}: {len(old)} keys in the old layout, such as {old[0]}: PEFT would not load them"
        ]
    targets = json.loads((adapter / ADAPTER_CONFIG_NAME).read_bytes())["target_modules"]
    modules = [found["module"] for found in map(_LORA_MODULE.fullmatch, keys) if found]
    missed = sorted(module for module in modules if not _peft_targets(targets, module))
    if missed:
        return [
            f"{ADAPTER_CONFIG_NAME}: target_modules passes over {len(missed)} modules with LoRA, such as "
            f"{missed[0]}: PEFT would not load them"
        ]
    return []


def _peft_targets(targets: str | list[str], module: str) -> bool:
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _write_merged(adapter: Path, checked: CheckedAdapter, folder: Path, dtype: str | None) -> None:
    import torch

    from model.backbone import load_base
    from model.lora import load_adapter_weights, merge_adapter

    base = checked.base_path
    assert base is not None  # it was needed
    number_format: torch.dtype = getattr(torch, dtype or _stored_dtype(base))
    model = load_base(base, torch.device("cpu"), number_format)
    merge_adapter(model, load_adapter_weights(adapter), keep_base=False)
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # the writer of safetensors leaves them to their owner
    for name in _BASE_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if (adapter / SCORE_HEAD_NAME).is_file():
        shutil.copyfile(adapter / SCORE_HEAD_NAME, folder / SCORE_HEAD_NAME)


def _stored_dtype(base: Path) -> str:
    config = json.loads((base / "config.json").read_bytes())
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")
