"""Dataflow without an account: the graph as it would be submitted, and a template in a storage server."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import apache_beam as beam
import google.auth
import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from google.auth.credentials import AnonymousCredentials

from beam_pipeline.__main__ import main
from beam_pipeline.job import Job
from beam_pipeline.options import ScoringOptions
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.submission.gpu_settings import GPUS, gpu_settings, print_dataflow_flags, resource_hints
from beam_pipeline.submission.runners import (
    beam_options,
    is_submitted_only,
    right_fitting_problems,
    runner_kind,
    runner_problems,
    source_problems,
)
from schemas.errors import ConfigurationError
from tests.beam_pipeline.gcs_server import start_gcs_server
from tests.beam_pipeline.helpers import NOW

pytestmark = pytest.mark.integration
BATCH = ScoringOptions(input=("gs://photos/*.jpg",), output="gs://scored/out", run_id="r")
STREAM = ScoringOptions(
    subscription="projects/my-project/subscriptions/arrivals", output="gs://scored/out", run_id="r"
)
WATCH = ScoringOptions(watch="gs://photos/in/", output="gs://scored/out", run_id="r")
DATAFLOW = (
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=us-central1",
    "--temp_location=gs://scored/tmp",
    "--sdk_container_image=images/realqa:1",
    "--no_auth",
)


@dataclass(frozen=True)
class Graph:
    """What the runner would send."""

    components: Any

    def is_unbounded(self, step: str) -> bool:
        (output,) = next(
            transform.outputs.values()
            for transform in self.components.transforms.values()
            if transform.unique_name == step
        )
        bounded = self.components.pcollections[output].is_bounded
        return bool(bounded == beam_runner_api_pb2.IsBounded.UNBOUNDED)

    def coders(self) -> dict[str, str]:
        """Of what every step gives: ``kv<varint,ImageRefCoder>``; of tagged outputs by ``step:tag``."""
        return {
            transform.unique_name + (f":{tag}" if tag != "None" else ""): self.coder(
                self.components.pcollections[output].coder_id
            )
            for transform in self.components.transforms.values()
            for tag, output in transform.outputs.items()
            if not transform.subtransforms
        }

    def coder(self, coder_id: str) -> str:
        coder = self.components.coders[coder_id]
        name = coder.spec.urn.split(":")[2]
        if name == "pickled_python":
            # A length, then the name of the class.
            name = re.findall(rb"[A-Z]\w+Coder", coder.spec.payload.split(b"$")[0])[0].decode()
        parts = ",".join(self.coder(part) for part in coder.component_coder_ids)
        return f"{name}<{parts}>" if parts else name

    def states(self) -> dict[str, str]:
        """Of the bags that steps keep."""
        found = {}
        for transform in self.components.transforms.values():
            if transform.spec.urn == "beam:transform:pardo:v1":
                payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
                for state, spec in payload.state_specs.items():
                    if spec.HasField("bag_spec"):
                        found[f"{transform.unique_name}:{state}"] = self.coder(spec.bag_spec.element_coder_id)
        return found

    def machines(self) -> dict[str, dict[str, bytes]]:
        """Resource hints by step."""
        return {
            transform.unique_name: dict(self.components.environments[transform.environment_id].resource_hints)
            for transform in self.components.transforms.values()
            if transform.spec.urn == "beam:transform:pardo:v1" and not transform.subtransforms
        }


@cache
def dry_run(options: ScoringOptions) -> Graph:
    runner = DataflowRunner()
    beam_arguments = beam_options([*DATAFLOW, "--dry_run=True"])
    pipeline = beam.Pipeline(runner=runner, options=beam_arguments)
    build_pipeline(pipeline, Job(options, FakeScorerFactory(), NOW))
    pipeline.run()
    return Graph(runner.proto_pipeline.components)


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        pytest.fail("something asked the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(google.auth, "default", refuse)


@pytest.mark.usefixtures("_no_network")
def test_a_batch_is_one_graph_of_one_image_without_hints() -> None:
    graph = dry_run(BATCH)
    stages = {name.split("/")[0] for name in graph.coders()}
    assert stages == {"ReadImageRefs", "ChunkRefs", "ScoreChunks", "WriteChunks"}
    (environment,) = graph.components.environments.values()
    image = beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
    assert image == "images/realqa:1"
    assert not environment.resource_hints


@pytest.mark.usefixtures("_no_network")
def test_records_have_coders_of_their_own_wherever_a_batch_puts_them() -> None:
    coders = dry_run(BATCH).coders()
    (scored,) = [
        coder
        for name, coder in coders.items()
        if name.startswith("ScoreChunks/RunInference/") and not name.endswith(":bad")
    ]
    assert coders["ReadImageRefs/Describe"] == "ImageRefCoder"
    # Encoded once, before the counting; a tuple of plain parts needs nothing of ours.
    assert coders["ChunkRefs/Group"] == "kv<kv<kv<varint,varint>,bool>,iterable<bytes>>"
    assert coders["ChunkRefs/Cut"] == "ChunkCoder"
    assert scored == coders["ScoreChunks/Rescue"] == "ScoredChunkCoder"
    assert coders["WriteChunks/Files"] == "string_utf8"


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("options", [STREAM, WATCH], ids=["subscription", "watch"])
def test_a_stream_is_unbounded_and_keeps_no_pickled_record(options: ScoringOptions) -> None:
    graph = dry_run(options)
    assert graph.is_unbounded("WriteChunks/Files")
    coders = graph.coders()
    assert coders["ReadImageRefs/DropSeen/Once/DeduplicateFn"] == "kv<string_utf8,ImageRefCoder>"
    # Beam pickles what it groups into batches, whatever its coder, and keeps it in state; but not bytes.
    assert coders["ChunkRefs/Stream/Shard"] == "kv<varint,bytes>"
    assert graph.states() == {
        "ReadImageRefs/DropSeen/Once/DeduplicateFn:seen": "bool",
        "ChunkRefs/Stream/Group/ParDo(_GroupIntoBatchesDoFn):values": "FastPrimitivesCoder",
    }
    assert coders["ChunkRefs/Stream/Close"] == "ChunkCoder"


@pytest.mark.usefixtures("_no_network")
def test_right_fitting_gives_the_gpu_to_scoring_and_writing_and_to_nothing_else() -> None:
    options = ScoringOptions(input=BATCH.input, output=BATCH.output, run_id="r", score_gpu="nvidia-l4")
    hints = dry_run(options).machines()
    with_gpu = {name.split("/")[0] for name, hint in hints.items() if "beam:resources:accelerator:v1" in hint}
    without = {name.split("/")[0] for name, hint in hints.items() if not hint}
    # Scoring and writing stay together: apart, every scored chunk would travel between machines.
    assert with_gpu == {"ScoreChunks", "WriteChunks"}
    assert without == {"ReadImageRefs", "ChunkRefs"}
    assert hints["WriteChunks/Write0"] == hints["ScoreChunks/AsBatch"]
    assert hints["WriteChunks/Write0"]["beam:resources:accelerator:v1"].startswith(b"type:nvidia-l4;count:1")


def test_right_fitting_beside_a_gpu_in_every_worker_is_refused() -> None:
    flags = gpu_settings("nvidia-l4").flags()
    both = beam_options([*DATAFLOW, *flags])
    (problem,) = right_fitting_problems("nvidia-l4", both)
    assert "worker_accelerator" in problem
    fitted = beam_options([*DATAFLOW, *gpu_settings("nvidia-l4").flags(right_fitting=True)])
    assert right_fitting_problems("nvidia-l4", fitted) == []
    assert right_fitting_problems(None, both) == []
    (unknown,) = right_fitting_problems("nvidia-l5", fitted)
    assert "nvidia-l4" in unknown
    (elsewhere,) = right_fitting_problems("nvidia-l4", beam_options([]))
    assert "DataflowRunner" in elsewhere


@pytest.mark.parametrize("gpu", GPUS)
def test_the_settings_of_every_gpu_are_options_that_beam_knows(gpu: str) -> None:
    options = beam_options([*DATAFLOW, *gpu_settings(gpu).flags()]).get_all_options()
    assert options["dataflow_service_options"] == [
        f"worker_accelerator=type:{gpu};count:1;install-nvidia-driver"
    ]
    assert options["experiments"] == ["no_use_multiple_sdk_containers"]
    assert 8 <= options["number_of_worker_harness_threads"] <= 16
    assert options["max_num_workers"] >= 1
    assert options["disk_size_gb"] >= 100


def test_hints_leave_memory_for_the_system_and_name_the_machine() -> None:
    assert resource_hints(None) == {}
    assert resource_hints("nvidia-l4") == {
        "accelerator": "type:nvidia-l4;count:1;machine_type:g2-standard-16;install-nvidia-driver",
        "min_ram": "48GB",
    }


def test_dataflow_flags_can_be_pasted_into_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--gpu", "nvidia-l4", "--region", "us-central1", "--image", "images/a:1"]
    assert main(["dataflow-flags", *arguments, "--max-workers", "3"]) == 0
    flags = shlex.split(capsys.readouterr().out.replace("\\\n", " "))
    options = beam_options(flags).get_all_options()
    assert (options["region"], options["sdk_container_image"]) == ("us-central1", "images/a:1")
    assert (options["max_num_workers"], options["machine_type"]) == (3, "g2-standard-16")
    assert print_dataflow_flags([*arguments, "--right-fitting"]) == 0
    assert "worker_accelerator" not in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="nvidia-h100-80gb"):
        print_dataflow_flags(["--gpu", "l4"])


def test_what_dataflow_could_not_run_is_said_before_it_is_asked() -> None:
    options = ScoringOptions(input=("photos",), output="out", stop_when_idle_s=1.0)
    problems = runner_problems(options, beam_options(["--runner=DataflowRunner"]))
    said = "\n".join(problems)
    for word in ("--input photos", "--output out", "--stop-when-idle-s", "project", "temp_location"):
        assert word in said
    assert "--sdk_container_image is missing" in said
    assert runner_problems(BATCH, beam_options(list(DATAFLOW))) == []


def test_the_command_lists_these_reasons_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--subscription", str(STREAM.subscription), "--output", "out", "--runner=DataflowRunner"]
    assert main(arguments, FakeScorerFactory()) == 2
    assert "--output out: is on this machine" in capsys.readouterr().err


def test_every_source_runs_here_and_on_dataflow() -> None:
    for options in (BATCH, STREAM, WATCH):
        assert source_problems(options, "local") == []
        assert source_problems(options, "dataflow") == []
    (problem,) = source_problems(STREAM, "other")
    assert "DataflowRunner" in problem
    (problem,) = source_problems(WATCH, "other")
    assert "FlinkRunner" in problem
    assert source_problems(BATCH, "other") == []


@pytest.mark.parametrize(
    ("runner", "kind"),
    [
        (None, "local"),
        ("direct", "local"),
        ("BundleBasedDirectRunner", "local"),
        ("DataflowRunner", "dataflow"),
        ("apache_beam.runners.dataflow.dataflow_runner.DataflowRunner", "dataflow"),
        ("FlinkRunner", "flink"),
        ("PortableRunner", "other"),
        ("SparkRunner", "other"),
    ],
)
def test_runners_are_told_apart_by_name(runner: str | None, kind: str) -> None:
    assert runner_kind(beam_options([f"--runner={runner}"] if runner else [])) == kind


def test_templates_dry_runs_and_streams_on_dataflow_are_not_waited_for() -> None:
    def left(*more: str, is_stream: bool = False) -> bool:
        return is_submitted_only(beam_options(list(more)), is_stream=is_stream)

    assert not left(*DATAFLOW)
    assert left(*DATAFLOW, is_stream=True)
    assert left(*DATAFLOW, "--template_location=gs://scored/t")
    assert left(*DATAFLOW, "--dry_run=True")
    assert left(*DATAFLOW, "--no_wait_until_finish")
    assert not left(is_stream=True)
    assert not left("--no_wait_until_finish")
    assert not left("--runner=FlinkRunner", is_stream=True)


def test_the_main_session_does_not_travel() -> None:
    assert beam_options(list(DATAFLOW)).get_all_options()["save_main_session"] is False
    assert beam_options([*DATAFLOW, "--save_main_session"]).get_all_options()["save_main_session"] is True


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = start_gcs_server()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.host)
    monkeypatch.setattr(google.auth, "default", lambda *_, **__: (AnonymousCredentials(), "my-project"))
    server.upload("gs://photos/a.jpg", b"x")
    server.make_bucket("scored")
    yield server
    server.stop()


def test_the_command_writes_a_template_whose_job_is_as_asked(
    bucket: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = gpu_settings("nvidia-l4").flags()
    arguments = ["--input", *BATCH.input, "--output", BATCH.output, *DATAFLOW, *flags, "--job_name=scoring"]
    assert main([*arguments, "--template_location=gs://scored/t/job.json"], FakeScorerFactory()) == 0
    assert "submitted" in capsys.readouterr().out
    job = json.loads(bucket.read("gs://scored/t/job.json"))
    assert (job["name"], job["type"]) == ("scoring", "JOB_TYPE_BATCH")
    environment = job["environment"]
    assert environment["serviceOptions"] == [
        "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
    ]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    (pool,) = environment["workerPools"]
    assert (pool["machineType"], pool["diskSizeGb"]) == ("g2-standard-16", 200)
    assert (pool["numThreadsPerWorker"], pool["autoscalingSettings"]["maxNumWorkers"]) == (8, 8)
    (container,) = pool["sdkHarnessContainerImages"]
    assert container["containerImage"] == "images/realqa:1"
    assert not any(package["name"] == "pickled_main_session" for package in pool["packages"])
    # Nothing was scored or written but the template and what it needs.
    assert not [name for name in bucket.names("scored") if name.startswith("out/")]


def test_the_stream_becomes_a_template_too(bucket: Any) -> None:
    arguments = ["--subscription", str(STREAM.subscription), "--output", STREAM.output, *DATAFLOW]
    assert main([*arguments, "--template_location=gs://scored/t/job.json"], FakeScorerFactory()) == 0
    job = json.loads(bucket.read("gs://scored/t/job.json"))
    assert job["type"] == "JOB_TYPE_STREAMING"
