"""The Flex Template of Dataflow: its metadata, and what its launcher runs.

Both are made from the same typed options as ``--help``. A launcher passes parameters as ``--name=value``
with the names of the metadata: option names with underscores, lists as one value with commas (a name that
contains a comma goes into a ``--manifest``), switches as ``true`` or ``false``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

from beam_pipeline.options import DTYPES, RETRIES, Parser, ScoringOptions, flag_of, parser
from beam_pipeline.submission.gpu_settings import GPUS, gpu_settings
from schemas.errors import ConfigurationError

_LOCAL = frozenset(("no_progress", "stop_when_idle_s"))
"""Options that mean something only where the job runs in the process that submits it."""

_REQUIRED = frozenset(("output", "sdk_container_image"))
_OBJECT = r"gs://[^\n\r]+"
_WHOLE = r"[0-9]+"
_NUMBER = r"[0-9]+([.][0-9]+)?"
_RULES: dict[str, tuple[str, str]] = {
    "input": ("TEXT", r"gs://[^,\n\r]+(,gs://[^,\n\r]+)*"),
    "manifest": ("TEXT", _OBJECT),
    "watch": ("TEXT", _OBJECT),
    "output": ("GCS_WRITE_FOLDER", _OBJECT),
    "subscription": ("PUBSUB_SUBSCRIPTION", "projects/[^/]+/subscriptions/[^/]+"),
    "retry_failed": ("TEXT", "({0})(,({0}))*".format("|".join(RETRIES))),
    "dtype": ("TEXT", "|".join(DTYPES)),
}
"""Of options: the type of the parameter, and what its whole value must match."""

_KINDS: dict[str, tuple[str, str]] = {
    "bool": ("BOOLEAN", "true|false"),
    "int": ("NUMBER", _WHOLE),
    "int | None": ("NUMBER", _WHOLE),
    "float": ("NUMBER", _NUMBER),
    "float | None": ("NUMBER", _NUMBER),
}
"""The same by annotation, where an option has no rule of its own."""

_DATAFLOW = (
    {
        "name": "sdk_container_image",
        "label": "Sdk container image",
        "helpText": "container image of the workers: the one that the template was built with",
        "isOptional": False,
    },
    {
        "name": "gpu",
        "label": "Gpu",
        "helpText": "type of GPU of the workers; sets the machine, its disk and threads to match "
        f"({', '.join(GPUS)}; default: no GPU)",
        "isOptional": True,
        "regexes": [f"^({'|'.join(GPUS)})$"],
    },
)
"""Parameters beside our options. What else Dataflow knows, ``gcloud`` has options for."""


def template_metadata() -> dict[str, Any]:
    """The metadata of the template, as ``gcloud dataflow flex-template build --metadata-file`` reads it."""
    helps = {action.dest: action.help for action in parser()._actions}
    ours = [_parameter(option, str(helps[option.name])) for option in template_options()]
    return {
        "name": "Score photographs",
        "description": "Scores the photographs of a bucket, or those that arrive there, into Parquet: "
        "one of input, manifest, subscription, watch and retry_failed says which.",
        "parameters": [*ours, *_DATAFLOW],
    }


def template_options() -> list[Field[Any]]:
    """Those of our options that are parameters of the template."""
    return [option for option in fields(ScoringOptions) if option.name not in _LOCAL]


def launch_arguments(arguments: Sequence[str]) -> list[str]:
    """Translate what a launcher passes into what the command line understands.

    Args:
        arguments: ``--name=value`` each; names that are not ours are left as they are, for Beam.

    Raises:
        ConfigurationError: A switch is neither ``true`` nor ``false``, or the GPU is not known.
    """
    ours = {option.name: option for option in template_options()}
    translated: list[str] = []
    gpu = ""
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name == "gpu":
            gpu = value
        elif name in ours:
            translated += _translated(ours[name], value)
        else:
            translated.append(argument)
    # First, so that what was given beside it (--max_num_workers) counts more.
    return [*(gpu_settings(gpu).flags() if gpu else ()), *translated]


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit the job that a launcher asks for; never waits for it, which a launcher must not.

    Returns:
        The exit code.
    """
    from beam_pipeline.__main__ import main as submit

    try:
        translated = launch_arguments(sys.argv[1:] if arguments is None else arguments)
    except ConfigurationError as error:
        print("cannot start:", *error.reasons, sep="\n  ", file=sys.stderr)
        return 2
    return submit([*translated, "--no_wait_until_finish"])


def print_template_metadata(arguments: Sequence[str]) -> int:
    """Run ``template-metadata``: print the metadata as JSON."""
    command = Parser(
        prog="python -m beam_pipeline template-metadata",
        description="Print the metadata of the Dataflow Flex Template, made from the options of --help.",
    )
    command.parse_args(list(arguments))
    print(json.dumps(template_metadata(), indent=2))
    return 0


def _parameter(option: Field[Any], help_text: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": option.name,
        "label": option.name.replace("_", " ").capitalize(),
        "helpText": help_text,
        "isOptional": option.name not in _REQUIRED,
    }
    rule = _RULES.get(option.name) or _KINDS.get(str(option.type))
    if rule is not None:
        made["paramType"], pattern = rule
        made["regexes"] = [f"^({pattern})$"]
    return made


def _translated(option: Field[Any], value: str) -> list[str]:
    flag = flag_of(option)
    if not value:
        return []  # a form that was left empty
    if option.type == "bool":
        if value not in ("true", "false"):
            raise ConfigurationError(f"{option.name} {value}: must be true or false")
        return [flag] if value == "true" else []
    if str(option.type).startswith("tuple"):
        return [flag, *value.split(",")]
    return [f"{flag}={value}"]
