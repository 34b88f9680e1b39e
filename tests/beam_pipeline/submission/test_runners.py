"""What stops a job, what it counts, and which runner runs it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability import prism_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_pipeline.job import Job
from beam_pipeline.options import ScoringOptions
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.scoring.engine import Engine
from beam_pipeline.scoring.fakes import FakePrepared, FakeScorer, FakeScorerFactory
from beam_pipeline.scoring.handler import NAMESPACE, ChunkHandler
from beam_pipeline.scoring.turns import Turn
from beam_pipeline.submission.runners import (
    beam_options,
    local_runner,
    runs_in_this_process,
    source_problems,
)
from schemas.errors import ConfigurationError
from schemas.records import Prediction
from tests.beam_pipeline.helpers import NOW, SETTINGS, files, rows, write_photos
from tests.beam_pipeline.jobs import score

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class _BrokenScorer(FakeScorer):
    """Raises what it is told to, once an image reaches the model."""

    error: type[Exception] = RuntimeError

    def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
        raise self.error("broken")


class AcceleratorError(RuntimeError):
    """Named as torch names it."""


def test_a_lost_device_stops_the_job_instead_of_failing_all_images(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 3)
    with pytest.raises(AcceleratorError):
        score(photos, output, factory=FakeScorerFactory(_BrokenScorer(error=AcceleratorError)))
    assert files(output) == {}


def test_a_configuration_error_found_by_the_model_stops_the_job_with_exit_code_2(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 3)
    factory = FakeScorerFactory(_BrokenScorer(error=ConfigurationError))
    assert score(tmp_path / "photos", tmp_path / "out", factory=factory) == 2


def test_a_scorer_that_cannot_be_loaded_stops_the_job_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FakeScorerFactory) -> FakeScorer:
        raise ConfigurationError("no such device")

    monkeypatch.setattr(FakeScorerFactory, "load", fail)
    monkeypatch.setattr(FnApiRunner, "run_pipeline", lambda *_: pytest.fail("the job was started"))
    write_photos(tmp_path / "photos", 3)
    assert score(tmp_path / "photos", tmp_path / "out") == 2


def test_a_chunk_that_the_engine_drops_becomes_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Engine.score

    def score_others(self: Engine, turn: Turn, *more: Any) -> Any:
        if any("_0003" in ref.image_uri for ref in turn.chunk.refs):
            raise IndexError("a mistake in the engine")
        return whole(self, turn, *more)

    monkeypatch.setattr(Engine, "score", score_others)
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 20)
    assert score(photos, output) == 0
    failed = rows(output, "failures")
    assert len(failed) + len(rows(output, "scores")) == 20
    assert 1 <= len(failed) <= 8
    assert {(row["stage"], row["error_type"], row["retryable"]) for row in failed} == {
        ("score", "InferenceError", True)
    }
    assert "IndexError: a mistake in the engine" in failed[0]["message"]


def test_metrics_count_images_and_have_units_in_their_names(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 10)
    (photos / "bad.jpg").write_bytes(b"no image")
    options = ScoringOptions(input=(str(photos),), output=str(output), run_id="metrics")
    pipeline = beam.Pipeline(runner=FnApiRunner())
    build_pipeline(pipeline, Job(options, FakeScorerFactory(), NOW))
    result = pipeline.run()
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counters = {metric.key.metric.name: metric.committed for metric in found["counters"]}
    distributions = {metric.key.metric.name: metric.committed for metric in found["distributions"]}
    assert counters["images_scored"] == 10
    assert counters["failures_decode"] == 1
    assert {"fetch_ms", "decode_ms", "score_ms", "visual_tokens", "micro_batch_images"} <= set(distributions)
    assert distributions["fetch_ms"].count == 11
    assert distributions["micro_batch_images"].sum == 10


def test_the_pipeline_is_made_of_the_words_of_the_field() -> None:
    options = ScoringOptions(input=("x",), output="o", skip_scored=True)
    pipeline = beam.Pipeline(runner=FnApiRunner())
    build_pipeline(pipeline, Job(options, FakeScorerFactory(), NOW))
    stages = {label.split("/")[0] for label in pipeline.applied_labels}
    assert stages == {"ReadImageRefs", "DropScored", "ChunkRefs", "ScoreChunks", "WriteChunks"}


def test_what_travels_to_workers_does_not_need_the_main_session() -> None:
    options = ScoringOptions(input=("x",), output="o")
    handler = ChunkHandler(FakeScorerFactory(), SETTINGS, options.run_id)
    assert b"__main__" not in pickle.dumps((handler, options))


def test_without_a_runner_it_is_the_pinned_one_and_a_named_one_is_beams() -> None:
    assert isinstance(local_runner(beam_options([])), FnApiRunner)
    assert local_runner(beam_options(["--runner=FlinkRunner"])) is None
    assert runs_in_this_process(beam_options([]))
    assert runs_in_this_process(beam_options(["--runner=Direct"]))
    assert not runs_in_this_process(beam_options(["--runner=FlinkRunner"]))
    assert not runs_in_this_process(beam_options(["--direct_running_mode=multi_processing"]))


def test_a_time_to_remember_what_was_seen_means_something_where_it_is_forgotten_only() -> None:
    watched = ScoringOptions(watch="photos", output="o", deduplicate_s=60.0)
    announced = ScoringOptions(subscription="projects/p/subscriptions/s", output="o", deduplicate_s=60.0)
    (problem,) = source_problems(watched, "local")
    assert problem.startswith("--deduplicate-s: has no effect with --watch on this machine")
    assert source_problems(watched, "dataflow") == source_problems(announced, "local") == []


def test_the_direct_runner_runs_the_job_on_the_same_runner_and_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SwitchingDirectRunner tries Prism, which it would download, only for pipelines without
    # with_exception_handling; ours has one, so it goes to FnApiRunner with and without a network.
    ran = []
    run_pipeline = FnApiRunner.run_pipeline

    def note(self: FnApiRunner, *arguments: Any) -> Any:
        ran.append(self)
        return run_pipeline(self, *arguments)

    monkeypatch.setattr(FnApiRunner, "run_pipeline", note)
    monkeypatch.setattr(prism_runner.PrismRunner, "run_pipeline", lambda *_: pytest.fail("Prism"))
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 5)
    assert score(photos, output, "--runner=DirectRunner") == 0
    assert len(ran) == 1
    assert len(rows(output, "scores")) == 5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--chunksize", "3"], "--chunksize: no such option; did you mean --chunk-size?"),
        (["--projekt=x"], "--projekt: no such option; did you mean --project?"),
        (["stray"], "stray: no such option"),
        (["--direct_num_workers=many"], "invalid int value"),
    ],
)
def test_an_option_that_nobody_knows_is_an_error_not_ignored(arguments: list[str], reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        beam_options(arguments)
    assert caught.value.reasons == (caught.value.reasons[0],)
    assert reason in caught.value.reasons[0]
