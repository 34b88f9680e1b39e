"""Text files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def replace_text(file: Path, text: str) -> None:
    """Write a text file so that no reader ever sees a part of it; a failure leaves the old one as it was."""
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
