"""What can be known to be wrong before a job starts. Every reason is listed; nothing is changed.

Loads neither torch nor Beam (except to look at an object store).
"""

from __future__ import annotations

import os
import re

from beam_pipeline.image_table import table_problems
from beam_pipeline.inputs import anything_matches
from beam_pipeline.options import DTYPES, ScoringOptions
from beam_pipeline.storage import is_remote, local_path

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_RUN_ID = re.compile(r"[A-Za-z0-9._:+-]{1,128}")


def problems_of(options: ScoringOptions) -> list[str]:
    """Give every reason why a job cannot start, one sentence each; empty if it can.

    The adapter is looked at separately (``beam_pipeline.adapters``): a job may bring its own scorer.
    """
    return [
        *_number_problems(options),
        *_word_problems(options),
        *_source_problems(options),
        *_output_problems(options.output),
    ]


def _number_problems(options: ScoringOptions) -> list[str]:
    least = {
        "--chunk-size": (options.chunk_size, 1),
        "--prefetch-images": (options.prefetch_images, 2),
        "--micro-batch-images": (options.micro_batch_images, 1),
        "--max-file-bytes": (options.max_file_bytes, 1),
        "--max-decoded-pixels": (options.max_decoded_pixels, 1),
    }
    for flag, value in (("--fetch-threads", options.fetch_threads), ("--token-budget", options.token_budget)):
        if value is not None:
            least[flag] = (value, 1)
    return [f"{flag} {value}: must be at least {low}" for flag, (value, low) in least.items() if value < low]


def _word_problems(options: ScoringOptions) -> list[str]:
    problems = []
    if not _DEVICE.fullmatch(options.device):
        problems.append(f"--device {options.device}: must be auto, cpu, cuda or cuda:N")
    if options.dtype is not None and options.dtype not in DTYPES:
        problems.append(f"--dtype {options.dtype}: must be one of {', '.join(DTYPES)}")
    if not _RUN_ID.fullmatch(options.run_id):
        problems.append(f"--run-id {options.run_id}: up to 128 letters, digits and . _ : + -")
    return problems


def _source_problems(options: ScoringOptions) -> list[str]:
    problems = []
    if bool(options.input) == (options.manifest is not None):
        problems.append("give either --input or --manifest" + (", not both" if options.input else ""))
    if options.manifest is not None:
        problems += table_problems(options.manifest)
    for pattern in options.input:
        try:
            if not anything_matches(pattern):
                problems.append(f"--input {pattern}: nothing matches")
        except OSError as error:  # an object store that refuses; Beam's own error is one, too
            problems.append(f"--input {pattern}: cannot be listed: {error}")
    return problems


def _output_problems(output: str) -> list[str]:
    if not output:
        return ["--output is missing"]
    if is_remote(output):
        return []
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
