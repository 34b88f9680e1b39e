"""Libraries that only some data sets need: imported when they are, and named when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from schemas.errors import ConfigurationError


def optional_module(name: str, package: str, purpose: str) -> Any:
    """Import a library that a plain installation does not have.

    Args:
        name: As it is imported.
        package: As pip knows it.
        purpose: What needs it, for the error.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"{purpose} needs {package}: pip install {package}") from error
