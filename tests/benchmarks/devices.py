"""What a device can do at all, and how to time what runs on it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.machine import process_bytes

GIB = 2**30
_MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}
_COPY_BYTES = {"cuda": 2**31, "cpu": 2**27}
_TRIES = 8


def rounded(number: float) -> float:
    """To four significant digits."""
    return float(f"{number:.4g}")


def synchronise(device: torch.device) -> None:
    """Wait for what a device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Time one call to the end of what it started."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def alternating(
    calls: Mapping[str, Callable[[], Any]], runs: int, device: torch.device
) -> dict[str, list[float]]:
    """Time calls in turns, so that what slows the machine for a while slows all of them.

    Args:
        calls: Warm ones, by name.
        runs: Of each.
        device: What they run on.

    Returns:
        Seconds of every run, by name.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            found[name].append(seconds_of(call, device))
    return found


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds by name."""
    return {name: statistics.median(found) for name, found in times.items()}


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Fastest of several products of two large matrices of random numbers."""
    side = _MATMUL_SIDE[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: one @ other, device) for _ in range(_TRIES))


def copy_bytes_per_s(device: torch.device) -> float:
    """Fastest of several copies of a large tensor; what is read and what is written both count."""
    source = torch.randint(0, 256, (_COPY_BYTES[device.type],), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * len(source) / min(seconds_of(lambda: target.copy_(source), device) for _ in range(_TRIES))


def forget_peak(device: torch.device) -> None:
    """Begin to watch for the most memory in use anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Most memory in use: of the device, or of this process on a CPU; None = not to be had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_bytes("VmHWM")
