"""Which Beam runner runs a job, and whether Beam will understand what it is told."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from beam_pipeline.handler import NAMESPACE
from beam_pipeline.options import Parser, ScoringOptions, flag_of
from schemas.errors import ConfigurationError

_IN_PROCESS = ("direct", "fnapi", "bundlebaseddirect", "switchingdirect")


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """Hand arguments to Beam, all of them understood.

    Beam itself ignores what it does not know, so a misspelt option would change nothing and say nothing.

    Raises:
        ConfigurationError: An argument is neither ours nor Beam's, or has a bad value.
    """
    known = Parser(allow_abbrev=False, add_help=False)
    for kind in {str(kind): kind for kind in PipelineOptions.__subclasses__()}.values():
        kind._add_argparse_args(known)
    _, unknown = known.parse_known_args(list(arguments))
    if unknown:
        flags = [flag for action in known._actions for flag in action.option_strings]
        flags += [flag_of(option) for option in fields(ScoringOptions)]
        # Without the values of unknown options, which are unknown, too.
        named = [argument for argument in unknown if argument.startswith("-")] or unknown
        raise ConfigurationError([_unknown(argument, flags) for argument in named])
    return PipelineOptions(list(arguments))


def local_runner(options: PipelineOptions) -> PipelineRunner | None:
    """The runner of a job that names none; None where it names one.

    Pinned, because Beam's default first tries to download another runner: the same job would run on
    different runners with and without a network.
    """
    return FnApiRunner() if _runner_name(options) is None else None


def runs_in_this_process(options: PipelineOptions) -> bool:
    """Say whether the workers will live in this process, so that an engine loaded here is theirs."""
    mode = options.view_as(DirectOptions).direct_running_mode
    name = _runner_name(options)
    # Beam takes "Direct", "DirectRunner" and "directrunner", and a module path before each.
    short = name.rsplit(".", 1)[-1].lower().removesuffix("runner") if name is not None else "fnapi"
    return short in _IN_PROCESS and mode != "multi_processing"


def counter_value(result: Any, name: str) -> int:
    """Read one of our counters from a finished job; 0 where nothing was counted."""
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE).with_name(name))["counters"]
    return sum(counter.committed or counter.attempted for counter in found)


def _runner_name(options: PipelineOptions) -> str | None:
    name: str | None = options.view_as(StandardOptions).runner
    return name


def _unknown(argument: str, flags: Sequence[str]) -> str:
    name = argument.split("=", 1)[0]
    near = difflib.get_close_matches(name, flags, n=1)
    return f"{name}: no such option" + (f"; did you mean {near[0]}?" if near else "")
