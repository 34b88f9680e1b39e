"""Comparisons: one configuration, several changes to it, all else equal. Read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import ConfigurationError
from training.config import StageConfig, chosen_config

_MERGED = frozenset({"score", "score_loss", "lora", "image"})
"""Parts of a configuration whose fields change one by one; everything else is replaced as a whole."""


class Variant(BaseModel):
    """One row of the table.

    Attributes:
        changes: To the configuration that all start from.
        ask: Answer templates that the images are asked with, each attribute read from the first that has
            it; empty = the configuration's default template.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    changes: dict[str, Any] = {}
    ask: tuple[str, ...] = ()


class Comparison(BaseModel):
    """What is compared.

    Attributes:
        title: Of the table.
        start: Configuration that all variants start from: one that ships here, or a file.
        target: What the figures are of: the score, or the mean over the attributes.
        changes: For all variants.
        variants: By name; the first is what the others are compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    start: str
    target: Literal["score", "attributes"] = "score"
    changes: dict[str, Any] = {}
    variants: dict[str, Variant] = Field(min_length=1)


def ready_comparisons() -> tuple[str, ...]:
    """Names of the comparisons that ship here."""
    folder = resources.files("training") / "comparisons"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def read_comparison(name_or_path: str) -> Comparison:
    """Read a comparison by its path, or by the name of one that ships here.

    Raises:
        ConfigurationError: There is none, or it is wrong: every reason.
    """
    path = Path(name_or_path)
    if name_or_path in ready_comparisons() and not path.exists():
        with resources.as_file(resources.files("training") / "comparisons" / f"{name_or_path}.yaml") as file:
            return _read(file)
    if not path.is_file():
        raise ConfigurationError(
            f"there is no comparison {name_or_path}; those here: {', '.join(ready_comparisons())}"
        )
    return _read(path)


def _read(path: Path) -> Comparison:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Comparison.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(
            [f"{path}: {_place(problem['loc'])}{problem['msg']}" for problem in error.errors()]
        ) from error


def variant_configs(comparison: Comparison, start: str | None = None) -> dict[str, StageConfig]:
    """Give every variant's whole configuration.

    Args:
        comparison: The comparison.
        start: Configuration to start from in place of the comparison's own.

    Raises:
        ConfigurationError: With every variant's reasons.
    """
    common = chosen_config(start or comparison.start).model_dump(mode="json", exclude_unset=True)
    found: dict[str, StageConfig] = {}
    problems: list[str] = []
    for name, variant in comparison.variants.items():
        settings = changed(changed(common, comparison.changes), variant.changes)
        try:
            config = StageConfig.model_validate(settings)
        except ValidationError as error:
            problems += [f"{name}: {_place(p['loc'])}{p['msg']}" for p in error.errors()]
            continue
        unknown = sorted(set(variant.ask) - set(config.templates))
        if unknown:
            problems.append(f"{name}: ask: it is not trained on {', '.join(unknown)}")
        found[name] = config
    if problems:
        raise ConfigurationError(problems)
    return found


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes made to them; parts such as ``score`` change field by field."""
    merged = {name: {**settings.get(name, {}), **changes[name]} for name in _MERGED & changes.keys()}
    result = {**settings, **changes, **merged}
    # The two say the same thing in two ways.
    if "epochs" in changes and "steps" not in changes:
        result.pop("steps", None)
    if "steps" in changes and "epochs" not in changes:
        result.pop("epochs", None)
    # Each head is read in its own way; one way said for another head would be refused.
    score = changes.get("score", {})
    if "head" in score and "decoder" not in score:
        result["score"].pop("decoder", None)
    return result


def _place(location: tuple[Any, ...]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""
