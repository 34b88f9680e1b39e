"""Where and with what something was measured: the envelope of every figures file. Loads no torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("torch", "transformers", "peft", "apache-beam", "pillow", "numpy", "pyarrow")


def envelope(benchmark: str, figures: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put figures beside what they depend on.

    Args:
        benchmark: The subcommand that measured them.
        figures: What it found.
        settings: The options it ran with.
    """
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu_name()},
        "versions": {"python": platform.python_version()} | _versions(),
        "commit": commit(),
        "settings": dict(settings),
        "figures": dict(figures),
    }


def cpu_name() -> str:
    """Model of the processor as Linux tells it; elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpu_name() -> str | None:
    """Name of the CUDA device; None without one, or where nothing has loaded torch."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def commit() -> str | None:
    """Commit of the code, with ``+dirty`` where files differ from it; None outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+dirty" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    said = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True)
    return said.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def process_bytes(field: str) -> int | None:
    """A figure of this process that Linux tells in KiB (``VmRSS``, ``VmHWM``); None on other systems."""
    if sys.platform != "linux":
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
