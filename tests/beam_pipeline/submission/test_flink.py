"""Flink: what options come to, the manifest, and, where there is a job server, the real thing."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from apache_beam.options.pipeline_options import FlinkRunnerOptions

import beam_pipeline
from beam_pipeline.__main__ import main
from beam_pipeline.options import ScoringOptions
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.submission import runners
from beam_pipeline.submission.runners import beam_options, runner_problems, source_problems
from schemas.errors import ConfigurationError
from tests.beam_pipeline.helpers import rows, write_photos

MANIFEST = Path(beam_pipeline.__file__ or "").parent / "deploy" / "flink-gpu-sidecar.yaml"
BATCH = ScoringOptions(input=("photos",), output="out", run_id="r")
JAR = os.environ.get("FLINK_JOB_SERVER_JAR", "")


def options_of(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = beam_options(["--runner=FlinkRunner", *arguments]).get_all_options()
    return found


def test_a_local_flink_finds_the_workers_in_this_process() -> None:
    assert options_of()["environment_type"] == "LOOPBACK"
    assert options_of("--flink_master=[local]")["environment_type"] == "LOOPBACK"


def test_a_cluster_finds_the_workers_in_the_sidecar_of_each_task_manager() -> None:
    found = options_of("--flink_master=flink:8081")
    assert (found["environment_type"], found["environment_config"]) == ("EXTERNAL", "localhost:50000")
    found = options_of("--job_endpoint=localhost:8099")
    assert found["environment_type"] == "EXTERNAL"


def test_where_workers_are_can_be_said() -> None:
    found = options_of("--flink_master=flink:8081", "--environment_type=DOCKER", "--environment_config=a:1")
    assert (found["environment_type"], found["environment_config"]) == ("DOCKER", "a:1")
    found = options_of("--flink_master=flink:8081", "--environment_config=localhost:50001")
    assert found["environment_config"] == "localhost:50001"


def test_one_sdk_process_serves_a_gpu() -> None:
    assert int(options_of()["sdk_worker_parallelism"]) == 1


def test_options_of_the_job_server_are_passed_on_to_flink_and_to_no_other_runner() -> None:
    checkpoints = ["--checkpointing_interval=60000", "--savepoint_path", "gs://photos/savepoint"]
    beam_options(["--runner=FlinkRunner", *checkpoints])
    with pytest.raises(ConfigurationError, match="--checkpointing_interval: no such option"):
        beam_options(checkpoints)
    with pytest.raises(ConfigurationError, match="did you mean --checkpointing_interval"):
        beam_options(["--runner=FlinkRunner", "--checkpoint_interval=60000"])


def test_a_subscription_on_flink_is_an_error_that_names_what_can() -> None:
    stream = ScoringOptions(subscription="projects/p/subscriptions/s", output="out")
    (problem,) = source_problems(stream, "flink")
    assert "--runner=DataflowRunner" in problem
    assert "--watch" in problem
    assert source_problems(ScoringOptions(watch="photos", output="out"), "flink") == []
    assert source_problems(BATCH, "flink") == []


def test_what_flink_could_not_run_is_said_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners.shutil, "which", lambda name: None)
    nowhere = tmp_path / "nowhere.jar"
    arguments = ["--flink_master=flink:8081", "--environment_type=LOOPBACK"]
    problems = runner_problems(
        BATCH, beam_options(["--runner=FlinkRunner", *arguments, f"--flink_job_server_jar={nowhere}"])
    )
    loopback, jar, java = problems
    assert "--environment_type=EXTERNAL" in loopback
    assert f"{nowhere}: no such file" in jar
    assert java.startswith("java: no such program")
    remote = beam_options(["--runner=FlinkRunner", "--job_endpoint=flink:8099"])
    shared = replace(BATCH, input=("/shared/photos",), output="gs://scored/out", adapter="/opt/adapter")
    assert runner_problems(shared, remote) == []


def test_places_that_only_this_process_has_are_said_for_workers_elsewhere() -> None:
    remote = beam_options(["--runner=FlinkRunner", "--job_endpoint=flink:8099"])
    problems = runner_problems(replace(BATCH, adapter="mine", challenger="adapters/other"), remote)
    for said, flag in zip(problems, ("--input photos", "--output out", "--adapter mine"), strict=False):
        assert said.startswith(flag)
    assert len(problems) == 4


def test_every_published_version_of_flink_can_be_named() -> None:
    for version in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS:
        assert options_of(f"--flink_version={version}")["flink_version"] == version


def test_the_manifest_puts_a_gpu_and_a_worker_pool_beside_every_task_manager() -> None:
    deployment = yaml.safe_load(MANIFEST.read_text())
    assert deployment["kind"] == "FlinkDeployment"
    manager = deployment["spec"]["taskManager"]
    pod = manager["podTemplate"]["spec"]
    containers = {container["name"]: container for container in pod["containers"]}
    assert set(containers) == {"flink-main-container", "beam-worker-pool"}
    pool = containers["beam-worker-pool"]
    assert pool["args"] == ["--worker_pool"]
    assert pool["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in pool["env"]
    (port,) = pool["ports"]
    assert f"localhost:{port['containerPort']}" == runners.SIDECAR_ADDRESS
    # Where Flink stages what the workers read.
    shared = [
        {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}["/tmp"]
        for container in containers.values()
    ]
    assert shared[0] == shared[1]
    assert shared[0] in {volume["name"] for volume in pod["volumes"]}


def test_the_manifest_runs_one_model_a_task_manager_and_keeps_checkpoints_and_savepoints() -> None:
    spec = yaml.safe_load(MANIFEST.read_text())["spec"]
    configuration = spec["flinkConfiguration"]
    assert configuration["taskmanager.numberOfTaskSlots"] == "1"
    assert configuration["execution.checkpointing.interval"]
    for place in ("execution.checkpointing.dir", "execution.checkpointing.savepoint-dir"):
        assert configuration[place].startswith("gs://")
    assert all(isinstance(value, str) for value in configuration.values())


def test_the_manifest_is_of_a_flink_that_beam_supports_in_all_its_places() -> None:
    spec = yaml.safe_load(MANIFEST.read_text())["spec"]
    version = spec["flinkVersion"].removeprefix("v").replace("_", ".")
    assert version in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    patch = spec["image"].removeprefix("flink:").split("-")[0]
    assert patch.startswith(f"{version}.")
    (plugin,) = spec["podTemplate"]["spec"]["containers"][0]["env"]
    assert plugin["value"] == f"flink-gs-fs-hadoop-{patch}.jar"
    assert f"--flink_version={version}" in MANIFEST.read_text()


needs_job_server = pytest.mark.skipif(
    not JAR, reason="FLINK_JOB_SERVER_JAR names no jar of Beam's Flink job server: a real Flink is not tested"
)


@pytest.mark.integration
@needs_job_server
def test_a_batch_on_an_embedded_flink_scores_every_image(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 20)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    arguments = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--chunk-size", "8"]
    assert main([*arguments, *_embedded()], FakeScorerFactory()) == 0
    assert len(rows(tmp_path / "out", "scores")) == 20
    assert len(rows(tmp_path / "out", "failures")) == 1


@pytest.mark.integration
@needs_job_server
def test_a_watched_folder_on_an_embedded_flink_scores_what_comes_later(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 5)
    arguments = ["--watch", str(photos) + "/", "--output", str(output), "--every", "1", "--chunk-wait-s", "1"]
    # Ends with the process: a stream has no end of its own.
    threading.Thread(target=main, args=([*arguments, *_embedded()], FakeScorerFactory()), daemon=True).start()
    _wait_for_rows(output, 5)
    write_photos(photos, 5, first=5)
    _wait_for_rows(output, 10)


def _embedded() -> list[str]:
    return [
        "--runner=FlinkRunner",
        "--flink_master=[local]",
        f"--flink_job_server_jar={JAR}",
        "--parallelism=1",
        "--checkpointing_interval=1000",
    ]


def _wait_for_rows(output: Path, count: int) -> None:
    gives_up = time.monotonic() + 120
    while len(rows(output, "scores")) < count:
        assert time.monotonic() < gives_up
        time.sleep(0.5)
