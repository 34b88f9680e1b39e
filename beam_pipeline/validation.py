"""What can be known to be wrong before a job starts. Every reason is listed; nothing is changed.

Loads neither torch nor Beam (except to look at an object store).
"""

from __future__ import annotations

import os
import re
from dataclasses import fields

from beam_pipeline.options import DTYPES, RETRIES, ScoringOptions, flag_of, is_given
from beam_pipeline.scoring.pointers import pointer_of
from beam_pipeline.sources.image_table import table_problems
from beam_pipeline.sources.inputs import anything_matches
from beam_pipeline.sources.watch_feed import watched_folder
from beam_pipeline.stores.storage import bucket_problem, is_remote, join, list_files, local_path
from schemas.tables import SCHEMAS

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_SUBSCRIPTION = re.compile(r"projects/[a-z][-a-z0-9:.]{4,61}[a-z0-9]/subscriptions/[^/\s]+")
_WITHOUT_FP8 = ("nvidia-tesla-t4", "nvidia-tesla-a100", "nvidia-a100-80gb")
_STREAMS = ("subscription", "watch")
_PARTNERS: dict[str, tuple[str, ...]] = {
    "every": ("watch",),
    "challenger_share": ("challenger",),
    "chunk_wait_s": _STREAMS,
    "stream_shards": _STREAMS,
    "deduplicate_s": _STREAMS,
    "stop_when_idle_s": _STREAMS,
}
"""Options that mean something beside one of these only."""

_RUN_ID = re.compile(r"[A-Za-z0-9._:+-]{1,128}")


def problems_of(options: ScoringOptions) -> list[str]:
    """Give every reason why a job cannot start, one sentence each; empty if it can.

    The adapter is looked at separately (``beam_pipeline.scoring.adapters``): a job may bring its own scorer.
    """
    return [
        *_number_problems(options),
        *_word_problems(options),
        *_source_problems(options),
        *_partner_problems(options),
        *output_problems(options.output),
    ]


def pointer_problems(options: ScoringOptions) -> list[str]:
    """Say which options follow a pointer where ``--adapter`` is none; for jobs that bring no scorer."""
    if not is_given(options, "adapter_poll_s") or pointer_of(options.adapter) is not None:
        return []
    return ["--adapter-poll-s: has no effect unless --adapter is a pointer (a file that names an adapter)"]


def output_problems(output: str) -> list[str]:
    """Say why rows cannot be written to an output; nothing is written."""
    if not output:
        return ["--output is missing"]
    if is_remote(output):
        return _bucket_problems("--output", output, writing=True)
    folder = os.path.abspath(local_path(output))
    if os.path.lexists(folder) and not os.path.isdir(folder):
        return [f"--output {output}: is a file, must be a directory"]
    # The nearest folder that exists: the rest is created by the first write, not by a check.
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return [f"--output {output}: {folder} is not a directory"]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [f"--output {output}: {folder} cannot be written to"]
    return []


def _number_problems(options: ScoringOptions) -> list[str]:
    least = {
        "--chunk-size": (options.chunk_size, 1),
        "--prefetch-images": (options.prefetch_images, 2),
        "--micro-batch-images": (options.micro_batch_images, 1),
        "--max-file-bytes": (options.max_file_bytes, 1),
        "--max-decoded-pixels": (options.max_decoded_pixels, 1),
        "--in-flight-bytes": (options.in_flight_bytes, 1),
        "--stream-shards": (options.stream_shards, 1),
    }
    for flag, value in (("--fetch-threads", options.fetch_threads), ("--token-budget", options.token_budget)):
        if value is not None:
            least[flag] = (value, 1)
    above_zero = {
        "--every": options.every,
        "--chunk-wait-s": options.chunk_wait_s,
        "--deduplicate-s": options.deduplicate_s,
        "--stop-when-idle-s": options.stop_when_idle_s,
        "--adapter-poll-s": options.adapter_poll_s,
    }
    return [
        *(f"{flag} {value}: must be at least {low}" for flag, (value, low) in least.items() if value < low),
        *(
            f"{flag} {value:g}: must be a number above 0"
            for flag, value in above_zero.items()
            if value is not None and not 0 < value < float("inf")
        ),
    ]


def _word_problems(options: ScoringOptions) -> list[str]:
    problems = []
    if not _DEVICE.fullmatch(options.device):
        problems.append(f"--device {options.device}: must be auto, cpu, cuda or cuda:N")
    if options.dtype is not None and options.dtype not in DTYPES:
        problems.append(f"--dtype {options.dtype}: must be one of {', '.join(DTYPES)}")
    if options.fp8:
        problems += _fp8_problems(options)
    if not _RUN_ID.fullmatch(options.run_id):
        problems.append(f"--run-id {options.run_id}: up to 128 letters, digits and . _ : + -")
    return problems


def _fp8_problems(options: ScoringOptions) -> list[str]:
    """What FP8 does not go with; whether the GPU has it is seen on the worker."""
    problems = []
    if options.device == "cpu":
        problems.append("--fp8 and --device cpu: FP8 needs a GPU")
    if options.dtype not in (None, "bfloat16"):
        problems.append(f"--fp8 and --dtype {options.dtype}: all else is bfloat16 then")
    if options.score_gpu in _WITHOUT_FP8:
        problems.append(f"--fp8 and --score-gpu {options.score_gpu}: that one has no FP8; nvidia-l4 does")
    if options.challenger is not None:
        problems.append(
            "--fp8 and --challenger: two adapters on one base stay beside it, in its number format"
        )
    elif pointer_of(options.adapter) is not None:
        problems.append("--fp8: needs an --adapter that stays, not a pointer: name the directory")
    return problems


def _source_problems(options: ScoringOptions) -> list[str]:
    problems = []
    given = [flag for flag, value in _sources(options).items() if value]
    if len(given) != 1:
        said = f"{' and '.join(given)}: more than one source" if given else "no source of images"
        problems.append(f"{said}; give one of {', '.join(_sources(options))}")
    problems += _stream_problems(options)
    if options.retry_failed:
        problems += _retry_problems(options)
    if options.manifest is not None:
        problems += _bucket_problems("--manifest", options.manifest) or table_problems(options.manifest)
    for pattern in options.input:
        problems += _bucket_problems("--input", pattern) or _input_problems(pattern)
    return problems


def _bucket_problems(flag: str, uri: str, *, writing: bool = False) -> list[str]:
    problem = bucket_problem(uri, writing=writing)
    return [f"{flag} {uri}: {problem}"] if problem else []


def _input_problems(pattern: str) -> list[str]:
    try:
        return [] if anything_matches(pattern) else [f"--input {pattern}: nothing matches"]
    except OSError as error:  # an object store that refuses; Beam's own error is one, too
        return [f"--input {pattern}: cannot be listed: {error.strerror or error}"]


def _sources(options: ScoringOptions) -> dict[str, object]:
    return {
        "--input": options.input,
        "--manifest": options.manifest,
        "--subscription": options.subscription,
        "--watch": options.watch,
        "--retry-failed": options.retry_failed,
    }


def _stream_problems(options: ScoringOptions) -> list[str]:
    problems = _idle_problems(options)
    if options.subscription is not None and not _SUBSCRIPTION.fullmatch(options.subscription):
        problems.append(f"--subscription {options.subscription}: must be projects/PROJECT/subscriptions/NAME")
    if options.subscription is not None and options.skip_scored:
        problems.append("--skip-scored: of a subscription everything is new; repeated messages are dropped")
    if options.watch is not None and not is_remote(options.watch):
        # A pattern may match nothing yet; the folder in which it looks must be there.
        folder = watched_folder(options.watch)
        if not os.path.isdir(folder):
            problems.append(f"--watch {options.watch}: there is no directory {folder}")
        elif not os.access(folder, os.R_OK | os.X_OK):
            problems.append(f"--watch {options.watch}: {folder} cannot be listed: permission denied")
    if options.watch is not None:
        problems += _bucket_problems("--watch", options.watch)
    return problems


def _idle_problems(options: ScoringOptions) -> list[str]:
    idle_s = options.stop_when_idle_s
    if options.watch is not None and idle_s is not None and 0 < idle_s <= options.every:
        return [
            f"--stop-when-idle-s {idle_s:g}: must be more than --every {options.every:g}, or the place is "
            "looked at only once"
        ]
    return []


def _retry_problems(options: ScoringOptions) -> list[str]:
    unknown = [word for word in options.retry_failed if word not in RETRIES]
    if unknown:
        return [f"--retry-failed {word}: must be one of {', '.join(RETRIES)}" for word in unknown]
    try:
        has_rows = any(list_files(join(options.output, table), ".parquet") for table in SCHEMAS)
    except OSError:  # said of --output
        return []
    # An output that is misspelt would be an empty one, with nothing to do.
    return [] if has_rows else [f"--retry-failed: --output {options.output} has no rows"]


def _partner_problems(options: ScoringOptions) -> list[str]:
    """Options that would change nothing, as what they belong to is not asked for."""
    flags = {option.name: flag_of(option) for option in fields(ScoringOptions)}
    return [
        f"{flags[name]}: has no effect without {' or '.join(flags[partner] for partner in partners)}"
        for name, partners in _PARTNERS.items()
        if is_given(options, name) and not any(is_given(options, partner) for partner in partners)
    ]
