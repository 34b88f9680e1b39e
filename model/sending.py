"""Whole numbers that the host knows, sent to the device together: one copy, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def send(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Copy integer tensors from the host to a device.

    A copy from ordinary memory would make the host wait until all work given to the device before is done, so
    on CUDA it goes through page-locked memory.

    Args:
        tensors: On the host, int64.
        device: Where to.

    Returns:
        The same tensors there; on a CPU they are these.
    """
    if device.type == "cpu":
        return list(tensors)
    packed = torch.cat([tensor.flatten() for tensor in tensors])
    if device.type == "cuda":
        packed = packed.pin_memory()
    there = packed.to(device, non_blocking=True)
    parts = torch.split(there, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
