"""Score heads with weights of their own: made, stored, read back.

They look at one hidden state: of the last token before the score would be written, behind the final norm, in
float32 whatever the model's number format. Their weights stand in a file beside the adapter's, whose hash is
in the manifest: PEFT does not know it, and loads the adapter as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from model.adapter_config import SCORE_HEAD_NAME
from schemas.errors import ManifestMismatchError
from schemas.manifest import READOUT_HEADS, ScoreScale

_FIRST_OUTPUT = 0.5
"""Of the heads that give one number, before training: the middle of the range, for every image."""


def build_head(scale: ScoreScale, width: int) -> nn.Module | None:
    """Make an untrained head; its weights are drawn from torch's generator.

    Args:
        scale: Says which head, and its size.
        width: Of the language model's hidden states.

    Returns:
        (batch, width) → (batch, bins) logits, or → (batch, 1) score divided by 10. None for heads that
        write tokens.
    """
    if scale.head not in READOUT_HEADS:
        return None
    last = nn.Linear(
        scale.hidden_width if scale.head == "mlp" else width, scale.bins if scale.head == "bins" else 1
    )
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, _FIRST_OUTPUT)
    if scale.head != "mlp":
        return last
    return nn.Sequential(nn.Linear(width, scale.hidden_width), nn.GELU(), last)


def is_number(scale: ScoreScale) -> bool:
    """Whether a head gives one number, and no distribution."""
    return scale.head in ("regression", "mlp")


def load_head(directory: Path, scale: ScoreScale, width: int, device: torch.device) -> nn.Module | None:
    """Read the head of an adapter directory; None where its score is written in tokens.

    Raises:
        ManifestMismatchError: Missing, unreadable, or not the head that the manifest describes.
    """
    head = build_head(scale, width)
    if head is None:
        return None
    try:
        state = load_file(directory / SCORE_HEAD_NAME)
    except (OSError, SafetensorError) as error:
        raise ManifestMismatchError(f"{SCORE_HEAD_NAME}: cannot be read ({error})") from error
    problems = _differences(head.state_dict(), state)
    if problems:
        raise ManifestMismatchError(problems)
    head.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return head.to(device).eval().requires_grad_(False)


def _differences(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    problems = [
        f"{SCORE_HEAD_NAME}: {'missing' if name in wanted else 'unexpected'} {name}"
        for name in sorted(wanted.keys() ^ found.keys())
    ]
    for name in sorted(wanted.keys() & found.keys()):
        ours, theirs = tuple(wanted[name].shape), tuple(found[name].shape)
        if ours != theirs:
            problems.append(f"{SCORE_HEAD_NAME}: {name} is {theirs}; manifest and base ask for {ours}")
        elif not torch.isfinite(found[name]).all():
            problems.append(f"{SCORE_HEAD_NAME}: {name} holds values that are not finite")
    return problems
