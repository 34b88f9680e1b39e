"""Which names may be those of images: one rule for walks, patterns, notifications and watched places.

Hidden files, what lies in hidden folders, and the sidecars of ``SIDECAR_SUFFIXES`` are not images. Everything
else is offered and judged by its bytes, so a photograph without an extension is scored and a broken one
becomes a failure with a reason.
"""

from __future__ import annotations

import os

# fmt: off
SIDECAR_SUFFIXES = frozenset((
    ".aae", ".cfg", ".csv", ".db", ".dop", ".htm", ".html", ".ini", ".json", ".jsonl", ".lock", ".log",
    ".md", ".md5", ".ndjson", ".on1", ".parquet", ".pp3", ".py", ".pyc", ".rst", ".sha256", ".sqlite",
    ".tmp", ".toml", ".tsv", ".txt", ".url", ".xml", ".xmp", ".yaml", ".yml",
))
# fmt: on
"""Suffixes (lower case) of files that lie beside photographs and are none."""


def is_offered(name: str) -> bool:
    """Say whether a file that a walk or a pattern found may be an image, by its name alone."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() not in SIDECAR_SUFFIXES


def is_shown(path: str, pattern: str = "") -> bool:
    """Say whether what was found below a folder may be an image, by its path alone.

    Args:
        path: From that folder on. One that ends in a slash is what some tools leave to show a folder.
        pattern: What found it, from that folder on. As in a shell, it finds what lies in hidden folders
            where it spells the dot.
    """
    *folders, name = path.split("/")
    hidden_folder = any(folder.startswith(".") for folder in folders)
    return bool(name) and is_offered(name) and not (hidden_folder and "/." not in f"/{pattern}")
