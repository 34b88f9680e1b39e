"""The options of a scoring job: one frozen object, and the command line that fills it.

Loads neither torch nor Beam. What is not ours is handed to Beam untouched.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NoReturn

from schemas.errors import ConfigurationError

DTYPES = ("float32", "bfloat16", "float16")
_MIB = 1024 * 1024


def _option(default: Any, help: str, **argument: Any) -> Any:
    """A field with what argparse needs to know about it."""
    return field(default=default, metadata={"help": help, "argument": argument})


@dataclass(frozen=True)
class ScoringOptions:
    """What a scoring job is told. Each field is one command-line option; its help is its documentation."""

    input: tuple[str, ...] = _option(
        (),
        "paths, patterns or directories of images; an existing path is literal, directories are walked",
        nargs="+",
        metavar="PATTERN",
    )
    manifest: str | None = _option(
        None,
        "table of images instead of --input (.csv, .jsonl, .parquet): column image_uri, optional context "
        "and event_time (UTC); further columns are passed through",
        metavar="FILE",
    )
    output: str = _option("", "directory that gets scores/ and failures/", metavar="DIR")
    adapter: str | None = _option(None, "adapter directory (default: the small embedded one)", metavar="PATH")
    base_model: str | None = _option(
        None, "base model, name or path (default: what the adapter names)", metavar="NAME"
    )
    template: str | None = _option(None, "answer template (default: the adapter's own)", metavar="NAME")
    device: str = _option("auto", "auto, cpu, cuda or cuda:N; decided on the worker", metavar="DEVICE")
    dtype: str | None = _option(
        None, f"number format of the weights: {', '.join(DTYPES)} (default: by device)", metavar="DTYPE"
    )
    chunk_size: int = _option(
        256, "most images of a chunk, the unit that is scored, written and retried", metavar="IMAGES"
    )
    fetch_threads: int | None = _option(
        None,
        "threads that fetch and decode images, per process (default: one per core of the worker, at least 4)",
        metavar="THREADS",
    )
    prefetch_images: int = _option(
        128, "most images held between fetching and the model, per chunk in work", metavar="IMAGES"
    )
    micro_batch_images: int = _option(64, "most images that the model sees at once", metavar="IMAGES")
    token_budget: int | None = _option(
        None, "visual tokens that the model sees at once (default: what suits the device)", metavar="TOKENS"
    )
    max_file_bytes: int = _option(64 * _MIB, "larger files are refused, unread", metavar="BYTES")
    max_decoded_pixels: int = _option(
        200_000_000, "larger pictures (width × height by the header) are refused, undecoded", metavar="PX"
    )
    skip_scored: bool = _option(
        False, "skip images that --output already has scores for, by this adapter", action="store_true"
    )
    run_id: str = _option(
        "", "names this job in every row (default: made from time and chance)", metavar="ID"
    )
    no_progress: bool = _option(False, "print no progress, only the closing summary", action="store_true")


class Parser(argparse.ArgumentParser):
    """Raises where argparse would exit, so that one place decides about exit codes."""

    def error(self, message: str) -> NoReturn:
        """Raise ``ConfigurationError``."""
        raise ConfigurationError(message)


def parser() -> argparse.ArgumentParser:
    """The command line, made from the fields of ``ScoringOptions``."""
    made = Parser(
        prog="python -m beam_pipeline",
        description="Score images into Parquet: OUTPUT/scores and OUTPUT/failures.",
        epilog="Any other option goes to Apache Beam (--runner, --project, ...). "
        "Further commands, each with its own --help: summary, query, ddl.",
        allow_abbrev=False,
    )
    for option in fields(ScoringOptions):
        made.add_argument(flag_of(option), **_argument(option))
    return made


def flag_of(option: Field[Any]) -> str:
    """The command-line spelling of a field."""
    return "--" + option.name.replace("_", "-")


def _argument(option: Field[Any]) -> dict[str, Any]:
    help_text = option.metadata["help"]
    if isinstance(option.default, int) and not isinstance(option.default, bool):
        # The annotation is a string here; the default tells what it is.
        return {
            "type": int,
            "default": option.default,
            "help": f"{help_text} (default: {option.default})",
        } | dict(option.metadata["argument"])
    typed = {"type": int} if option.type == "int | None" else {}
    return {"default": option.default, "help": help_text} | typed | dict(option.metadata["argument"])


def parse(argv: Sequence[str]) -> tuple[ScoringOptions, list[str]]:
    """Read the command line.

    Returns:
        Our options, and the arguments that are not ours, in order.

    Raises:
        ConfigurationError: An argument of ours cannot be read.
        SystemExit: After ``--help``.
    """
    known, others = parser().parse_known_args(list(argv))
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(known).items()
    }
    values["run_id"] = values["run_id"] or _new_run_id()
    return ScoringOptions(**values), others


def _new_run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
