from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from beam_pipeline.__main__ import main
from beam_pipeline.options import ScoringOptions
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.validation import pointer_problems, problems_of
from tests.beam_pipeline.helpers import write_photos

_WATCHED: dict[str, object] = {"input": (), "watch": "."}


@pytest.fixture
def options(tmp_path: Path) -> ScoringOptions:
    """Options with nothing wrong."""
    write_photos(tmp_path / "photos", 1)
    return ScoringOptions(
        input=(str(tmp_path / "photos"),), output=str(tmp_path / "new" / "out"), run_id="run"
    )


def test_good_options_have_no_problems_and_checking_changes_nothing(
    options: ScoringOptions, tmp_path: Path
) -> None:
    before = sorted(os.listdir(tmp_path))
    assert problems_of(options) == []
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices_that_may_exist_on_a_worker_are_accepted(options: ScoringOptions, device: str) -> None:
    assert problems_of(replace(options, device=device)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chunk_size": 0}, "--chunk-size 0"),
        ({"fetch_threads": 0}, "--fetch-threads 0"),
        ({"prefetch_images": 1}, "--prefetch-images 1"),
        ({"micro_batch_images": -1}, "--micro-batch-images -1"),
        ({"token_budget": 0}, "--token-budget 0"),
        ({"max_file_bytes": 0}, "--max-file-bytes 0"),
        ({"max_decoded_pixels": 0}, "--max-decoded-pixels 0"),
        ({"device": "gpu"}, "--device gpu"),
        ({"device": "cuda:"}, "--device cuda:"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"run_id": "a b"}, "--run-id a b"),
        ({"input": ()}, "no source of images; give one of --input, --manifest, --subscription, --watch"),
        ({"watch": "."}, "--input and --watch: more than one source"),
        (
            {"input": (), "watch": "/nowhere/deep"},
            "--watch /nowhere/deep: there is no directory /nowhere/deep",
        ),
        ({"input": (), "watch": "/nowhere/*.jpg"}, "there is no directory /nowhere"),
        ({"input": (), "subscription": "mine"}, "must be projects/PROJECT/subscriptions/NAME"),
        (
            {"input": (), "subscription": "projects/project/subscriptions/photos", "skip_scored": True},
            "--skip-scored: of a subscription everything is new",
        ),
        ({"input": (), "retry_failed": ("all", "ingest")}, "--retry-failed ingest: must be one of all, "),
        ({"input": (), "retry_failed": ("all",)}, "has no rows"),
        (
            _WATCHED | {"every": 10.0, "stop_when_idle_s": 10.0},
            "--stop-when-idle-s 10: must be more than --every 10",
        ),
        (_WATCHED | {"every": 0.0}, "--every 0: must be a number above 0"),
        (_WATCHED | {"chunk_wait_s": float("nan")}, "--chunk-wait-s nan"),
        (_WATCHED | {"deduplicate_s": float("inf")}, "--deduplicate-s inf"),
        (_WATCHED | {"stop_when_idle_s": -1.0}, "--stop-when-idle-s -1"),
        ({"adapter_poll_s": 0.0}, "--adapter-poll-s 0"),
        (_WATCHED | {"stream_shards": 0}, "--stream-shards 0"),
        ({"in_flight_bytes": 0}, "--in-flight-bytes 0"),
        ({"input": ("nowhere/*.jpg",)}, "--input nowhere/*.jpg: nothing matches"),
        ({"fp8": True, "device": "cpu"}, "--fp8 and --device cpu: FP8 needs a GPU"),
        ({"fp8": True, "dtype": "float16"}, "--fp8 and --dtype float16: all else is bfloat16"),
        ({"fp8": True, "challenger": "theirs"}, "--fp8 and --challenger"),
        ({"fp8": True, "adapter": __file__}, "--fp8: needs an --adapter that stays"),
        ({"fp8": True, "score_gpu": "nvidia-tesla-t4"}, "--fp8 and --score-gpu nvidia-tesla-t4"),
        ({"output": ""}, "--output is missing"),
        ({"output": __file__}, "is a file"),
        ({"output": f"{__file__}/out"}, "is not a directory"),
    ],
)
def test_each_problem_is_said(options: ScoringOptions, change: dict[str, object], reason: str) -> None:
    (problem,) = problems_of(replace(options, **change))  # type: ignore[arg-type]
    assert reason in problem


@pytest.mark.parametrize(
    ("change", "partners"),
    [
        ({"every": 5.0}, "--watch"),
        ({"challenger_share": 0.5}, "--challenger"),
        ({"chunk_wait_s": 5.0}, "--subscription or --watch"),
        ({"stream_shards": 5}, "--subscription or --watch"),
        ({"deduplicate_s": 5.0}, "--subscription or --watch"),
        ({"stop_when_idle_s": 5.0}, "--subscription or --watch"),
    ],
)
def test_an_option_without_what_it_belongs_to_is_said(
    options: ScoringOptions, change: dict[str, object], partners: str
) -> None:
    (problem,) = problems_of(replace(options, **change))  # type: ignore[arg-type]
    ((name, _),) = change.items()
    assert problem == f"--{name.replace('_', '-')}: has no effect without {partners}"


def test_an_option_beside_what_it_belongs_to_is_accepted(options: ScoringOptions) -> None:
    stream = {"chunk_wait_s": 5.0, "stream_shards": 5, "deduplicate_s": 5.0, "stop_when_idle_s": 50.0}
    announced = {"input": (), "subscription": "projects/project/subscriptions/photos"}
    for change in (stream | announced, stream | _WATCHED | {"every": 5.0}, {"challenger": "a"}):
        assert problems_of(replace(options, **change)) == []  # type: ignore[arg-type]


def test_every_option_without_what_it_belongs_to_is_told_at_once_and_defaults_pass(
    capsys: pytest.CaptureFixture[str], options: ScoringOptions
) -> None:
    arguments = ["--input", *options.input, "--output", options.output]
    defaults = ["--chunk-wait-s=30", "--stream-shards=4", "--challenger-share=0.05", "--adapter-poll-s=30.0"]
    assert main([*arguments, *defaults, "--every", "5", "--adapter-poll-s", "5"]) == 2
    told = capsys.readouterr().err.splitlines()[1:]
    assert [line.split()[0] for line in told] == ["--every:", "--adapter-poll-s:"]


def test_a_pointer_may_be_looked_at_as_often_as_one_likes_and_only_a_pointer(
    options: ScoringOptions, tmp_path: Path
) -> None:
    pointer = tmp_path / "current"
    pointer.write_text("first\n")
    often = replace(options, adapter_poll_s=1.0)
    assert pointer_problems(replace(often, adapter=str(pointer))) == []
    assert pointer_problems(replace(options, adapter=str(tmp_path))) == []
    for adapter in (None, str(tmp_path)):
        (problem,) = pointer_problems(replace(often, adapter=adapter))
        assert "--adapter-poll-s: has no effect unless --adapter is a pointer" in problem


def test_fp8_is_accepted_where_a_worker_may_have_it(options: ScoringOptions) -> None:
    for more in ({}, {"device": "cuda:1"}, {"dtype": "bfloat16"}, {"score_gpu": "nvidia-l4"}):
        assert problems_of(replace(options, fp8=True, **more)) == []  # type: ignore[arg-type]


def test_a_place_to_watch_may_be_empty_or_not_match_yet(options: ScoringOptions, tmp_path: Path) -> None:
    for place in (str(tmp_path), f"{tmp_path}/*.jpg", f"{tmp_path}/*/new/*.jpg", "."):
        assert problems_of(replace(options, input=(), watch=place)) == []


def test_an_output_that_cannot_be_written_to_is_said(
    options: ScoringOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (problem,) = problems_of(options)
    assert "cannot be written to" in problem


def test_a_watched_folder_that_cannot_be_listed_is_said(
    options: ScoringOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.R_OK)
    (problem,) = problems_of(replace(options, input=(), watch=f"{tmp_path}/*.jpg"))
    assert problem == f"--watch {tmp_path}/*.jpg: {tmp_path} cannot be listed: permission denied"


def test_every_pattern_must_match_something(options: ScoringOptions) -> None:
    (problem,) = problems_of(replace(options, input=(*options.input, "mistyped.jpg")))
    assert "mistyped.jpg: nothing matches" in problem


def test_all_problems_are_listed_at_once_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--input", "no.jpg", "--manifest", "no.csv", "--chunk-size", "0", "--device", "tpu"]
    code = main([*arguments, "--adapter", str(tmp_path)])
    told = capsys.readouterr().err
    assert code == 2
    for reason in (
        "--input and --manifest: more than one source",
        "no.jpg",
        "no.csv",
        "--chunk-size 0",
        "tpu",
        "--output",
        str(tmp_path),
    ):
        assert reason in told


def test_a_job_that_brings_its_scorer_needs_no_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", "o", "--adapter", "/nowhere"], FakeScorerFactory()) == 2
    assert "/nowhere" not in capsys.readouterr().err


def test_a_summary_of_nothing_and_a_bad_dialect_are_errors(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["summary", str(tmp_path)]) == 2
    assert main(["ddl", str(tmp_path), "--dialect", "oracle"]) == 2
    assert main(["summary"]) == 2
    assert "no rows there" in capsys.readouterr().err
