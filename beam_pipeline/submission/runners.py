"""Which Beam runner runs a job, whether it can, and whether Beam will understand what it is told."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
    WorkerOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from beam_pipeline.options import Parser, ScoringOptions, flag_of, is_given, no_such_option
from beam_pipeline.scoring.handler import NAMESPACE
from beam_pipeline.stores.storage import is_remote, local_path
from beam_pipeline.submission.gpu_settings import GPUS
from schemas.errors import ConfigurationError

RunnerKind = Literal["local", "dataflow", "flink", "other"]
"""``local``: the workers are in this process or its children, so their files are those of this machine."""

_IN_PROCESS = ("direct", "fnapi", "bundlebaseddirect", "switchingdirect")
_FLINK_HERE = ("[local]", "[auto]")
SIDECAR_ADDRESS = "localhost:50000"
"""Where a Flink task manager finds the workers of ``deploy/flink-gpu-sidecar.yaml``."""

_FLINK_VALUES = (
    "checkpointing_interval",
    "checkpointing_mode",
    "checkpoint_timeout_millis",
    "externalized_checkpoints_enabled",
    "fail_on_checkpointing_errors",
    "max_bundle_size",
    "max_bundle_time_mills",
    "min_pause_between_checkpoints",
    "num_concurrent_checkpoints",
    "number_of_execution_retries",
    "execution_retry_delay",
    "object_reuse",
    "retain_externalized_checkpoints_on_cancellation",
    "savepoint_path",
    "allow_non_restored_state",
    "shutdown_sources_after_idle_ms",
    "state_backend",
    "state_backend_storage_path",
)
"""Options of the Flink job server, which Beam's Python part learns from it only when a job is submitted."""


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """Hand arguments to Beam, all of them understood.

    Beam itself ignores what it does not know, so a misspelt option would change nothing and say nothing.

    Raises:
        ConfigurationError: An argument is neither ours nor Beam's, or has a bad value.
    """
    known = Parser(allow_abbrev=False, add_help=False)
    for kind in {str(kind): kind for kind in PipelineOptions.__subclasses__()}.values():
        kind._add_argparse_args(known)
    if runner_kind(PipelineOptions(list(arguments))) == "flink":
        for name in _FLINK_VALUES:
            # The value is optional, as switches of the job server have none.
            known.add_argument(f"--{name}", nargs="?")
    _, unknown = known.parse_known_args(list(arguments))
    if unknown:
        flags = [flag for action in known._actions for flag in action.option_strings]
        flags += [flag_of(option) for option in fields(ScoringOptions)]
        # Without the values of unknown options, which are unknown, too.
        named = [argument for argument in unknown if argument.startswith("-")] or unknown
        raise ConfigurationError([no_such_option(argument, flags) for argument in named])
    options = PipelineOptions(list(arguments))
    if runner_kind(options) == "flink":
        _say_where_workers_are(options)
    setup = options.view_as(SetupOptions)
    if setup.save_main_session is None:
        # Else Beam pickles the command's own module for Dataflow; workers have the package installed.
        setup.save_main_session = False
    return options


def runner_kind(options: PipelineOptions) -> RunnerKind:
    """Say what kind of runner the options name."""
    name = _short_name(options)
    if name in _IN_PROCESS:
        return "local"
    if name == "flink":
        return "flink"
    return "dataflow" if name == "dataflow" else "other"


def source_problems(options: ScoringOptions, kind: RunnerKind) -> list[str]:
    """Say where the source of a job cannot be served by a runner, and by which it can; pure.

    Bounded sources run everywhere. A subscription: on this machine (in rounds) and on Dataflow, as the
    portable Flink runner has no Pub/Sub source. A watched place: on this machine, Dataflow and Flink.
    """
    problems = []
    if options.subscription is not None and kind not in ("local", "dataflow"):
        problems.append(
            "--subscription: this runner cannot read Pub/Sub; use --runner=DataflowRunner, or none at all to "
            "stream on this machine" + ("; on Flink, --watch the bucket instead" if kind == "flink" else "")
        )
    if options.watch is not None and kind == "other":
        problems.append(
            "--watch: this runner is not known to stream; use --runner=DataflowRunner, --runner=FlinkRunner, "
            "or none at all to stream on this machine"
        )
    if options.watch is not None and options.skip_scored and kind != "local":
        problems.append(
            "--skip-scored: with --watch it needs a stream on this machine (no --runner); this one remembers "
            "by itself what it has seen"
        )
    if options.watch is not None and is_given(options, "deduplicate_s") and kind == "local":
        problems.append(
            "--deduplicate-s: has no effect with --watch on this machine, which remembers all it has seen"
        )
    if options.stop_when_idle_s is not None and kind != "local":
        problems.append(
            "--stop-when-idle-s ends streams on this machine only; drain or cancel the job instead"
        )
    return problems


def runner_problems(options: ScoringOptions, beam: PipelineOptions) -> list[str]:
    """Give every reason why this runner cannot run this job, one sentence each; nothing is contacted."""
    kind = runner_kind(beam)
    problems = source_problems(options, kind)
    if kind == "dataflow":
        problems += [*_place_problems(options), *_adapter_place_problems(options), *_dataflow_problems(beam)]
    if kind == "flink":
        problems += _flink_problems(beam)
        if beam.view_as(PortableOptions).environment_type == "EXTERNAL":
            problems += [*_shared_place_problems(options), *_adapter_place_problems(options)]
    is_stream = options.subscription is not None or options.watch is not None
    if kind == "local" and is_stream and not runs_in_this_process(beam):
        problems.append(
            "--direct_running_mode=multi_processing: a stream on this machine runs in one process"
        )
    return problems


def right_fitting_problems(accelerator: str | None, beam: PipelineOptions) -> list[str]:
    """Say why ``--score-gpu`` cannot be had with these options; nothing where it is not asked for."""
    if accelerator is None:
        return []
    if accelerator not in GPUS:
        return [f"--score-gpu {accelerator}: must be one of {', '.join(GPUS)}"]
    if runner_kind(beam) != "dataflow":
        return ["--score-gpu: only --runner=DataflowRunner gives stages machines of their own"]
    service = beam.view_as(GoogleCloudOptions).dataflow_service_options or []
    experiments = beam.view_as(DebugOptions).experiments or []
    if any(option.startswith("worker_accelerator") for option in (*service, *experiments)):
        return ["--score-gpu and worker_accelerator: give one, as the latter puts a GPU into every worker"]
    return []


def is_submitted_only(options: PipelineOptions, *, is_stream: bool) -> bool:
    """Say whether a job is handed over and left: a stream on Dataflow, a template, a dry run, or as asked.

    A stream on Flink is waited for, unless asked: its job server may be a child of this process.
    """
    kind = runner_kind(options)
    if kind == "local":
        return False
    unasked = (
        is_stream
        or options.view_as(GoogleCloudOptions).template_location
        or options.view_as(DebugOptions).dataflow_job_file
        or options.view_as(TestOptions).dry_run
    )
    return options.view_as(StandardOptions).no_wait_until_finish or (kind == "dataflow" and bool(unasked))


def local_runner(options: PipelineOptions) -> PipelineRunner | None:
    """The runner of a job that names none; None where it names one.

    Pinned, because Beam's default first tries to download another runner: the same job would run on
    different runners with and without a network.
    """
    return FnApiRunner() if _runner_name(options) is None else None


def runs_in_this_process(options: PipelineOptions) -> bool:
    """Say whether the workers will live in this process, so that an engine loaded here is theirs."""
    mode = options.view_as(DirectOptions).direct_running_mode
    return runner_kind(options) == "local" and mode != "multi_processing"


def counter_value(result: Any, name: str) -> int:
    """Read one of our counters from a finished job; 0 where nothing was counted."""
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE).with_name(name))["counters"]
    return sum(counter.committed or counter.attempted for counter in found)


def _runner_name(options: PipelineOptions) -> str | None:
    name: str | None = options.view_as(StandardOptions).runner
    return name


def _short_name(options: PipelineOptions) -> str:
    name = _runner_name(options)
    # Beam takes "Direct", "DirectRunner" and "directrunner", and a module path before each.
    return name.rsplit(".", 1)[-1].lower().removesuffix("runner") if name is not None else "fnapi"


def _say_where_workers_are(options: PipelineOptions) -> None:
    """Fill in where Flink finds its Python workers, unless told: here, or beside each task manager."""
    portable = options.view_as(PortableOptions)
    if portable.environment_type is not None or portable.output_executable_path is not None:
        return
    if options.view_as(FlinkRunnerOptions).flink_master in _FLINK_HERE and portable.job_endpoint is None:
        portable.environment_type = "LOOPBACK"
    else:
        portable.environment_type = "EXTERNAL"
        portable.environment_config = portable.environment_config or SIDECAR_ADDRESS


def _places(options: ScoringOptions) -> list[tuple[str, str]]:
    """Options that name places of this machine, and what they name."""
    places = {
        "--input": options.input,
        "--manifest": (options.manifest,),
        "--watch": (options.watch,),
        "--output": (options.output,),
    }
    given = [(flag, place) for flag, places_given in places.items() for place in places_given if place]
    return [(flag, place) for flag, place in given if not is_remote(place)]


def _place_problems(options: ScoringOptions) -> list[str]:
    """Places of this machine that workers elsewhere would look for on theirs."""
    return [
        f"{flag} {place}: is on this machine, and the workers of Dataflow are not; must be gs://"
        for flag, place in _places(options)
    ]


def _shared_place_problems(options: ScoringOptions) -> list[str]:
    """Relative places, which no worker elsewhere has; absolute ones may be a shared volume."""
    return [
        f"{flag} {place}: is relative to this process's folder; workers elsewhere need gs://, or the "
        "absolute path of a volume that all of them share"
        for flag, place in _places(options)
        if not _is_absolute(place)
    ]


def _adapter_place_problems(options: ScoringOptions) -> list[str]:
    return [
        f"{flag} {place}: is a path of this machine; workers elsewhere need gs://, or the absolute path "
        "within their image"
        for flag, place in (("--adapter", options.adapter), ("--challenger", options.challenger))
        if place and not is_remote(place) and not _is_absolute(place)
    ]


def _is_absolute(place: str) -> bool:
    return Path(local_path(place)).is_absolute()


def _dataflow_problems(beam: PipelineOptions) -> list[str]:
    cloud, setup = beam.view_as(GoogleCloudOptions), beam.view_as(SetupOptions)
    validator = PipelineOptionsValidator(beam, None)
    problems = validator.validate_cloud_options(cloud)
    # Without a usable one, Beam makes a bucket of its own in the project, and says nothing.
    problems += validator.validate_gcs_path(cloud, "temp_location")
    workers = beam.view_as(WorkerOptions)
    if not (workers.sdk_container_image or setup.setup_file or setup.requirements_file):
        problems.append(
            "--sdk_container_image is missing: workers need this package, torch and the base weights "
            "(beam_pipeline/deploy/Dockerfile)"
        )
    return [" ".join(problem.split()) for problem in problems]


def _flink_problems(beam: PipelineOptions) -> list[str]:
    portable, flink = beam.view_as(PortableOptions), beam.view_as(FlinkRunnerOptions)
    problems = []
    if portable.environment_type == "LOOPBACK" and flink.flink_master not in _FLINK_HERE:
        problems.append(
            f"--environment_type=LOOPBACK: images would be scored here, not by {flink.flink_master}; "
            f"give --environment_type=EXTERNAL --environment_config={SIDECAR_ADDRESS}"
        )
    if portable.job_endpoint is not None:
        return problems
    jar = flink.flink_job_server_jar
    if jar is not None and "://" not in jar and not Path(jar).is_file():
        problems.append(f"--flink_job_server_jar {jar}: no such file")
    launcher = beam.view_as(JobServerOptions).job_server_java_launcher
    if shutil.which(launcher) is None:
        problems.append(f"{launcher}: no such program; Beam's Flink job server needs Java")
    return problems
