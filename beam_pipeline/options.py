"""The options of a scoring job: one frozen object, and the command line that fills it.

Loads neither torch nor Beam. What is not ours is handed to Beam untouched.
"""

from __future__ import annotations

import argparse
import difflib
import uuid
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NoReturn

from schemas.errors import ConfigurationError

DTYPES = ("float32", "bfloat16", "float16")
RETRIES = ("all", "retryable", "list", "fetch", "decode", "score")
_MIB = 1024 * 1024
_ALIKE = 0.8


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
    subscription: str | None = _option(
        None,
        "a stream: Pub/Sub subscription (projects/P/subscriptions/S) to the notifications of a bucket; every "
        "object that arrives there is scored",
        metavar="NAME",
    )
    watch: str | None = _option(
        None, "a stream: folder or pattern, local or gs://, that is listed again and again", metavar="PATTERN"
    )
    every: float = _option(3.0, "seconds between two listings of --watch", metavar="SECONDS")
    retry_failed: tuple[str, ...] = _option(
        (),
        "instead of --input: score again what --output has failures for, by this adapter; one or more of "
        f"{', '.join(RETRIES)}",
        nargs="+",
        metavar="WHICH",
    )
    output: str = _option("", "directory that gets scores/ and failures/", metavar="DIR")
    adapter: str | None = _option(
        None,
        "adapter directory, local or gs://, or a pointer: a file that holds the path of one; a job follows "
        "it (default: the small embedded one)",
        metavar="PATH",
    )
    adapter_poll_s: float = _option(
        30.0, "seconds between two looks at the pointer that --adapter names", metavar="SECONDS"
    )
    challenger: str | None = _option(
        None, "a second adapter of the same base, which scores a share of the images, too", metavar="PATH"
    )
    challenger_share: float = _option(
        0.05, "share of the images for --challenger, by a hash of the uri: (0, 1]", metavar="SHARE"
    )
    base_model: str | None = _option(
        None, "base model, name or path (default: what the adapter names)", metavar="NAME"
    )
    template: str | None = _option(None, "answer template (default: the adapter's own)", metavar="NAME")
    device: str = _option("auto", "auto, cpu, cuda or cuda:N; decided on the worker", metavar="DEVICE")
    dtype: str | None = _option(
        None, f"number format of the weights: {', '.join(DTYPES)} (default: by device)", metavar="DTYPE"
    )
    fp8: bool = _option(
        False,
        "8-bit floats in the language model, on GPUs that have them (H100, L4, ...); first see what it does "
        "to the scores of your adapter: python -m model --fp8-check",
        action="store_true",
    )
    chunk_size: int = _option(
        256, "most images of a chunk, the unit that is scored, written and retried", metavar="IMAGES"
    )
    chunk_wait_s: float = _option(
        30.0, "a stream closes a chunk this long after its first image, full or not", metavar="SECONDS"
    )
    stream_shards: int = _option(
        4, "chunks that a stream fills side by side: at least one per worker", metavar="SHARDS"
    )
    deduplicate_s: float = _option(
        3600.0,
        "a stream drops what it has seen before within this time (Pub/Sub repeats itself)",
        metavar="SECONDS",
    )
    stop_when_idle_s: float | None = _option(
        None, "end a local stream when nothing has arrived for this long (default: never)", metavar="SECONDS"
    )
    context_sidecars: bool = _option(
        False,
        "take the context of photo.jpg from photo.json or photo.jpg.json beside it, where there is one",
        action="store_true",
    )
    score_gpu: str | None = _option(
        None,
        "on Dataflow, the type of GPU of the machines that score; the other stages get machines without one "
        "(right-fitting; default: all machines are alike)",
        metavar="TYPE",
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
    in_flight_bytes: int = _option(
        1024 * _MIB,
        "most bytes of files, and of decoded pictures, at a time in a process; a larger one goes alone",
        metavar="BYTES",
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
        "Further commands, each with its own --help: summary, query, ddl, compact, "
        "dataflow-flags, template-metadata.",
        allow_abbrev=False,
    )
    for option in fields(ScoringOptions):
        made.add_argument(flag_of(option), **_argument(option))
    return made


def flag_of(option: Field[Any]) -> str:
    """The command-line spelling of a field."""
    return "--" + option.name.replace("_", "-")


def is_given(options: ScoringOptions, name: str) -> bool:
    """Say whether an option has another value than by default; one given its default asks for nothing."""
    defaults = {option.name: option.default for option in fields(ScoringOptions)}
    given: bool = getattr(options, name) != defaults[name]
    return given


def _argument(option: Field[Any]) -> dict[str, Any]:
    help_text = option.metadata["help"]
    if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
        # The annotation is a string here; the default tells what it is.
        return {
            "type": type(option.default),
            "default": option.default,
            "help": f"{help_text} (default: {option.default})",
        } | dict(option.metadata["argument"])
    kinds: dict[Any, type] = {"int | None": int, "float | None": float}
    typed = {"type": kinds[option.type]} if option.type in kinds else {}
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


def misspelt(others: Sequence[str]) -> list[str]:
    """Say which arguments were meant to be ours: those with a dash inside that are much like one of ours.

    Beam's options have underscores. What is left, Beam itself must judge
    (``beam_pipeline.submission.runners``), and importing it takes seconds.
    """
    flags = [flag_of(option) for option in fields(ScoringOptions)]
    names = [other.split("=", 1)[0] for other in others if other.startswith("--")]
    return [
        no_such_option(name, flags)
        for name in names
        if "-" in name[2:] and difflib.get_close_matches(name, flags, cutoff=_ALIKE)
    ]


def no_such_option(argument: str, flags: Sequence[str]) -> str:
    """Say that an argument is none of ``flags``, and which is nearest."""
    name = argument.split("=", 1)[0]
    near = difflib.get_close_matches(name, flags, n=1)
    return f"{name}: no such option" + (f"; did you mean {near[0]}?" if near else "")


def _new_run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
