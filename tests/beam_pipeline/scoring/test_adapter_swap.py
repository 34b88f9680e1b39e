"""Another adapter takes over while a job runs: no image is lost, none is scored by two, none by a ghost."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_pipeline.__main__ import main
from beam_pipeline.job import Job
from beam_pipeline.options import ScoringOptions
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.scoring.engine import Engine, pinned_engine
from beam_pipeline.scoring.fakes import FakeFollower, FakePrepared, FakeScorer, FakeScorerFactory
from beam_pipeline.scoring.handler import NAMESPACE
from beam_pipeline.scoring.pointers import Pointer
from beam_pipeline.scoring.scorers import ModelScorerFactory
from beam_pipeline.scoring.switching import ChunkGate
from beam_pipeline.scoring.turns import Turn
from model.adapters import read_manifest
from model.backbone import EMBEDDED_ADAPTER
from model.images import ImageLimits, Room, unbounded
from model.scorer import Scorer
from schemas.errors import ConfigurationError
from schemas.records import Chunk, ImageScore, Prediction, ScoredChunk, ScoringFailure
from tests.beam_pipeline.gcs_server import start_gcs_server
from tests.beam_pipeline.helpers import NOW, SETTINGS, Recorder, ref, rows, write_photos
from tests.model.artefact import write_artefact, write_embedded_variant

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ALWAYS = replace(SETTINGS, adapter_poll_s=0.0)
PATIENCE_S = 60.0
"""Only ever waited out by a test that fails."""


class Retirable:
    """A fake whose predecessors notice when they are asked once more."""

    def __init__(self, scorer: FakeScorer) -> None:
        self._scorer = scorer
        self.retired = False
        self.token_budget = scorer.token_budget
        self.provenance = scorer.provenance

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
        return self._scorer.prepare(data, context=context, room=room)

    def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
        found = self._scorer.predict(prepared)
        if self.retired:
            raise AssertionError("asked after another adapter took over")
        return found


@dataclass
class CountingFollower:
    """Serves what the pointer says as revision; counts, and keeps what a test wants to go wrong."""

    pointer: Pointer
    loaded: str
    switches: int = 0
    looks: int = 0
    prepared: int = 0
    trouble: Exception | None = None
    late_trouble: Exception | None = None

    def look(self) -> str:
        self.looks += 1
        return self.pointer.read()

    def prepare(self, said: str, current: Any) -> Callable[[], Any]:
        self.prepared += 1
        if self.trouble:
            raise self.trouble

        def take_over() -> Retirable:
            if self.late_trouble:
                raise self.late_trouble
            current.retired = True
            self.switches += 1
            return Retirable(FakeScorer(revision=said, delay_ms=0.2))

        return take_over


def publish(pointer: Path, content: str) -> None:
    """As one should: a whole new file over the old one."""
    unfinished = pointer.with_suffix(".new")
    unfinished.write_text(content)
    os.replace(unfinished, pointer)


@pytest.fixture
def pointer(tmp_path: Path) -> Path:
    path = tmp_path / "current"
    path.write_text("r0")
    return path


@pytest.fixture
def follower(pointer: Path) -> CountingFollower:
    return CountingFollower(Pointer(str(pointer)), "r0")


def engine_of(follower: Any, **options: Any) -> Engine:
    scorer: Any = Retirable(FakeScorer(revision="r0"))
    return Engine(scorer, options.pop("settings", ALWAYS), follower=follower, clock=lambda: NOW, **options)


def chunks_of(folder: Path, chunks: int, images: int) -> list[Chunk]:
    refs = [ref(str(path), image_generation=None) for path in write_photos(folder, chunks * images)]
    return [Chunk(tuple(refs[start : start + images])) for start in range(0, len(refs), images)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def revisions(scored: ScoredChunk) -> set[str]:
    return {
        o.provenance.adapter_revision if isinstance(o, ImageScore) else o.adapter_revision
        for o in scored.outcomes
    }


# --- under load --------------------------------------------------------------------------------------


def test_ten_swaps_under_load_lose_nothing_and_every_row_names_an_adapter_of_its_time(
    tmp_path: Path, pointer: Path, follower: CountingFollower
) -> None:
    chunks = chunks_of(tmp_path / "photos", chunks=6, images=7)
    (tmp_path / "photos" / "photo_0003.jpg").write_bytes(b"no image")
    engine, done = engine_of(follower), threading.Event()
    results: list[tuple[int, ScoredChunk, int]] = []

    def load(number: int) -> None:
        while not done.is_set():
            before = follower.switches
            scored = engine.score(Turn(chunks[number % len(chunks)]), "run", Recorder())
            results.append((before, scored, follower.switches))

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(load, number) for number in range(4)]
        try:
            for swap in range(1, 11):
                publish(pointer, f"r{swap}")
                until(lambda: follower.switches >= swap)  # noqa: B023
        finally:
            done.set()
    assert [worker.exception() for worker in workers] == [None] * 4
    assert follower.switches == 10
    for before, scored, after in results:
        assert len(scored.outcomes) == 7
        (revision,) = revisions(scored)
        assert before <= int(revision.removeprefix("r")) <= after
        failed = [outcome for outcome in scored.outcomes if isinstance(outcome, ScoringFailure)]
        assert all(outcome.ref.image_uri.endswith("_0003.jpg") for outcome in failed), failed
    assert {f"r{swap}" for swap in range(1, 10)} <= set().union(
        *(revisions(scored) for _, scored, _ in results)
    )


def test_a_chunk_in_work_ends_with_its_adapter_and_the_switch_waits_for_it(
    tmp_path: Path, pointer: Path, follower: CountingFollower
) -> None:
    first, second = chunks_of(tmp_path / "photos", chunks=2, images=5)
    started, released = threading.Event(), threading.Event()

    class Slow(Retirable):
        def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
            started.set()
            assert released.wait(PATIENCE_S)
            return super().predict(prepared)

    slow: Any = Slow(FakeScorer(revision="r0"))
    engine = Engine(slow, ALWAYS, follower=follower)
    with ThreadPoolExecutor(2) as pool:
        in_work: Future[ScoredChunk] = pool.submit(engine.score, Turn(first), "run", Recorder())
        assert started.wait(PATIENCE_S)
        publish(pointer, "r1")
        recorder = Recorder()
        later = pool.submit(engine.score, Turn(second), "run", recorder)
        try:
            until(lambda: follower.prepared > 0)
            assert (follower.switches, later.done()) == (0, False)
        finally:
            released.set()
        assert revisions(in_work.result()) == {"r0"}
        assert revisions(later.result()) == {"r1"}
    assert len(recorder.switches) == 1


def test_a_switch_that_waits_goes_before_chunks_that_come() -> None:
    gate, order = ChunkGate(), list[str]()
    inside, leave, waits = threading.Event(), threading.Event(), threading.Event()

    def chunk_in_work() -> None:
        with gate.together():
            inside.set()
            assert leave.wait(PATIENCE_S)

    def switch() -> None:
        assert inside.wait(PATIENCE_S)
        waits.set()
        with gate.alone():
            order.append("switch")

    def chunk_that_comes() -> None:
        assert waits.wait(PATIENCE_S)
        until(lambda: gate._closed)
        leave.set()
        with gate.together():
            order.append("chunk")

    threads = [threading.Thread(target=work) for work in (chunk_in_work, switch, chunk_that_comes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["switch", "chunk"]


def test_an_error_inside_opens_the_gate_again() -> None:
    gate = ChunkGate()
    for hold in (gate.together, gate.alone) * 2:
        with pytest.raises(ValueError, match="inside"), hold():
            raise ValueError("inside")


# --- looking -----------------------------------------------------------------------------------------


def test_the_pointer_is_looked_at_once_in_the_time_given_however_many_chunks_come(
    tmp_path: Path, pointer: Path, follower: CountingFollower
) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=1)
    now = 0.0
    engine = engine_of(follower, settings=replace(SETTINGS, adapter_poll_s=30.0), seconds=lambda: now)
    publish(pointer, "r1")
    seen = []
    for moment in (0.0, 1.0, 29.9, 30.0, 30.1, 59.9, 60.0):
        now = moment
        seen.append((*revisions(engine.score(Turn(chunk), "run", Recorder())), follower.looks))
    assert seen == [("r0", 0), ("r0", 0), ("r0", 0), ("r1", 1), ("r1", 1), ("r1", 1), ("r1", 2)]
    assert follower.prepared == 1


def test_what_was_refused_is_not_tried_again_until_the_pointer_changes(
    tmp_path: Path, pointer: Path, follower: CountingFollower, caplog: pytest.LogCaptureFixture
) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=1)
    engine, recorder = engine_of(follower), Recorder()
    follower.trouble = ConfigurationError(["its weights are cut off", "it is of another base"])
    publish(pointer, "r1")
    for _ in range(3):
        assert revisions(engine.score(Turn(chunk), "run", recorder)) == {"r0"}
    assert (follower.prepared, recorder.failed_switches, len(caplog.records)) == (1, 1, 1)
    assert "its weights are cut off; it is of another base" in caplog.text
    follower.trouble = None
    publish(pointer, "r1\nuploaded again")
    assert revisions(engine.score(Turn(chunk), "run", recorder)) == {"r1\nuploaded again"}
    assert (follower.prepared, recorder.failed_switches) == (2, 1)


@pytest.mark.parametrize(
    "trouble", [OSError("the store is busy"), MemoryError(), KeyError("a mistake of ours")]
)
def test_what_can_only_not_be_read_now_is_tried_again_and_told_once(
    tmp_path: Path,
    pointer: Path,
    follower: CountingFollower,
    caplog: pytest.LogCaptureFixture,
    trouble: Exception,
) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=1)
    engine, recorder = engine_of(follower), Recorder()
    follower.trouble = trouble
    publish(pointer, "r1")
    for _ in range(3):
        assert revisions(engine.score(Turn(chunk), "run", recorder)) == {"r0"}
    assert (follower.prepared, recorder.failed_switches, len(caplog.records)) == (3, 1, 1)
    follower.trouble = None
    assert revisions(engine.score(Turn(chunk), "run", recorder)) == {"r1"}


def test_a_switch_that_cannot_be_made_leaves_the_old_one_serving(
    tmp_path: Path, pointer: Path, follower: CountingFollower
) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=2)
    engine, recorder = engine_of(follower), Recorder()
    follower.late_trouble = ConfigurationError("no memory left")
    publish(pointer, "r1")
    scored = [engine.score(Turn(chunk), "run", recorder) for _ in range(2)]
    assert all(revisions(each) == {"r0"} for each in scored)
    assert all(isinstance(outcome, ImageScore) for each in scored for outcome in each.outcomes)
    assert (recorder.failed_switches, recorder.switches) == (1, [])


class AcceleratorError(RuntimeError):
    """Named as torch names it."""


def test_a_device_that_is_lost_while_switching_is_not_hidden(
    tmp_path: Path, pointer: Path, follower: CountingFollower
) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=1)
    for trouble in ("trouble", "late_trouble"):
        engine = engine_of(replace(follower, **{trouble: AcceleratorError("assert")}))
        publish(pointer, "r1")
        with pytest.raises(AcceleratorError):
            engine.score(Turn(chunk), "run", Recorder())


def test_going_back_to_the_adapter_in_place_is_no_switch(tmp_path: Path, pointer: Path) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=1)
    engine = Engine(FakeScorer(revision="r0"), ALWAYS, follower=FakeFollower(Pointer(str(pointer)), "r0"))
    recorder = Recorder()
    for content, expected in (("broken", "r0"), ("r0\nonce more", "r0"), ("r1", "r1"), ("r0", "r0")):
        publish(pointer, content)
        assert revisions(engine.score(Turn(chunk), "run", recorder)) == {expected}
    assert (len(recorder.switches), recorder.failed_switches) == (2, 1)


# --- the real model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedded_variant(tmp_path_factory.mktemp("variant") / "adapter", seed=1)


def factory_of(adapter: str) -> ModelScorerFactory:
    return ModelScorerFactory(adapter, None, None, "cpu", None, ImageLimits())


def predictions(scored: ScoredChunk) -> list[Prediction]:
    assert all(isinstance(outcome, ImageScore) for outcome in scored.outcomes)
    return [outcome.prediction for outcome in scored.outcomes if isinstance(outcome, ImageScore)]


def test_the_embedded_model_there_and_back_scores_bit_by_bit_as_if_freshly_loaded(
    tmp_path: Path, pointer: Path, variant: Path
) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=6)
    adapters = {str(EMBEDDED_ADAPTER): EMBEDDED_ADAPTER, str(variant): variant}
    fresh = {
        name: predictions(pinned_engine(factory_of(name), SETTINGS).score(Turn(chunk), "run", Recorder()))
        for name in adapters
    }
    assert fresh[str(EMBEDDED_ADAPTER)] != fresh[str(variant)]
    publish(pointer, str(EMBEDDED_ADAPTER))
    engine, recorder = pinned_engine(factory_of(str(pointer)), ALWAYS), Recorder()
    for name in (str(EMBEDDED_ADAPTER), str(variant), str(EMBEDDED_ADAPTER), str(variant)):
        publish(pointer, name)
        scored = engine.score(Turn(chunk), "run", recorder)
        assert predictions(scored) == fresh[name]
        assert revisions(scored) == {read_manifest(adapters[name])[1]}
    assert (len(recorder.switches), recorder.failed_switches) == (3, 0)


def _garbage(kind: str, folder: Path, variant: Path) -> str | None:
    """What a pointer says, or None for a pointer that is not there."""
    if kind == "another base":
        return str(write_artefact(folder / "elsewhere").adapter)
    if kind in ("no manifest", "truncated weights", "changed manifest"):
        broken = shutil.copytree(variant, folder / "broken")
        name = "adapter_model.safetensors" if kind == "truncated weights" else "manifest.json"
        content = (broken / name).read_bytes()
        (broken / name).unlink()
        if kind != "no manifest":
            (broken / name).write_bytes(content[:-20])
        return str(broken)
    return {"empty file": "", "missing directory": "v9", "no text": "\0\0\0", "missing pointer": None}[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing pointer", "No such file"),
        ("empty file", "first line is empty"),
        ("no text", "no text file"),
        ("missing directory", "manifest.json: cannot be read"),
        ("no manifest", "manifest.json: cannot be read"),
        ("changed manifest", "JSON"),
        ("truncated weights", "sha256 differs"),
        ("another base", "base_model.tensors_sha256"),
    ],
)
def test_a_pointer_to_garbage_leaves_the_old_one_serving_with_one_warning(
    tmp_path: Path, pointer: Path, variant: Path, caplog: pytest.LogCaptureFixture, kind: str, reason: str
) -> None:
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=1)
    publish(pointer, str(EMBEDDED_ADAPTER))
    engine, recorder = pinned_engine(factory_of(str(pointer)), ALWAYS), Recorder()
    before = engine.score(Turn(chunk), "run", recorder)
    said = _garbage(kind, tmp_path, variant)
    if said is None:
        pointer.unlink()
    else:
        publish(pointer, said)
    for _ in range(3):
        assert predictions(engine.score(Turn(chunk), "run", recorder)) == predictions(before)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert reason in warnings[0].getMessage()
    assert (recorder.failed_switches, recorder.switches) == (1, [])
    publish(pointer, str(variant))
    assert revisions(engine.score(Turn(chunk), "run", recorder)) == {read_manifest(variant)[1]}
    assert (recorder.failed_switches, len(recorder.switches)) == (1, 1)


@pytest.mark.integration
def test_a_pointer_and_its_adapters_in_an_object_store_are_followed_while_the_job_runs(
    tmp_path: Path, variant: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "temporary"
    cache.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    (chunk,) = chunks_of(tmp_path / "photos", chunks=1, images=2)
    server = start_gcs_server()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.host)
        for name, folder in (("v1", EMBEDDED_ADAPTER), ("v2", variant)):
            for path in folder.iterdir():
                server.upload(f"gs://adapters/{name}/{path.name}", path.read_bytes())
        server.upload("gs://adapters/v3/manifest.json", (variant / "manifest.json").read_bytes()[:-50])
        server.upload("gs://adapters/current", b"v1\n")
        engine, recorder = pinned_engine(factory_of("gs://adapters/current"), ALWAYS), Recorder()
        names = [read_manifest(folder)[0].name for folder in (EMBEDDED_ADAPTER, variant)]
        told = []
        for said in (b"v1", b"v2", b"v3", b"v9", None, b"v1"):
            if said is None:
                server.delete("gs://adapters/current")
            else:
                server.upload("gs://adapters/current", said)
            (outcome, _) = engine.score(Turn(chunk), "run", recorder).outcomes
            assert isinstance(outcome, ImageScore)
            told.append((outcome.provenance.adapter, recorder.failed_switches))
    finally:
        server.stop()
    assert told == [
        (names[0], 0),
        (names[1], 0),
        (names[1], 1),
        (names[1], 2),
        (names[1], 3),
        (names[0], 3),
    ]
    assert "there is no manifest.json" in caplog.text
    assert sorted(path.name for path in next(cache.iterdir()).iterdir()) == sorted(
        read_manifest(folder)[1] for folder in (EMBEDDED_ADAPTER, variant)
    )


# --- whole jobs --------------------------------------------------------------------------------------


@pytest.fixture
def scripted_pointer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Lets a pointer say something new from the n-th look on."""
    script: dict[int, str] = {}
    looks = 0

    def read(pointer: Pointer) -> str:
        nonlocal looks
        looks += 1
        return script[max(start for start in script if start <= looks)]

    def say(**by_look: str) -> None:
        script.update({int(look.removeprefix("from_")): said for look, said in by_look.items()})

    monkeypatch.setattr(Pointer, "read", read)
    return say  # type: ignore[return-value]


@pytest.mark.integration
def test_a_job_that_changes_its_adapter_half_way_writes_what_each_says_under_its_name(
    tmp_path: Path, scripted_pointer: Callable[..., None]
) -> None:
    photos, output, pointer = tmp_path / "photos", tmp_path / "out", tmp_path / "current"
    paths = write_photos(photos, 40)
    (photos / "bad.jpg").write_bytes(b"no image")
    first = write_artefact(tmp_path / "first").adapter
    second = write_artefact(tmp_path / "second", lora_seed=7, name="second").adapter
    pointer.touch()
    scripted_pointer(from_0=str(first), from_8=str(second))
    arguments = ["--input", str(photos), "--output", str(output), "--adapter", str(pointer)]
    assert main([*arguments, "--chunk-size", "4", "--adapter-poll-s", "0.000001", "--no-progress"]) == 0
    scored = rows(output, "scores")
    assert sorted(row["image_uri"] for row in scored) == [str(path) for path in paths]
    assert [row["image_uri"] for row in rows(output, "failures")] == [str(photos / "bad.jpg")]
    seen = Counter()
    for adapter in (first, second):
        scorer = Scorer.load(adapter)
        expected = dict(zip(map(str, paths), scorer.score(paths), strict=True))
        for row in scored:
            if row["adapter_revision"] == scorer.provenance.adapter_revision:
                assert row["adapter"] == scorer.provenance.adapter
                assert row["score"] == pytest.approx(expected[row["image_uri"]].score, abs=1e-4)
                seen[row["adapter"]] += 1
    assert sum(seen.values()) == 40
    assert len(seen) == 2


@pytest.mark.integration
def test_switches_and_refusals_are_counted_and_timed_in_beams_metrics(
    tmp_path: Path, scripted_pointer: Callable[..., None]
) -> None:
    write_photos(tmp_path / "photos", 12)
    options = ScoringOptions(
        input=(str(tmp_path / "photos"),), output=str(tmp_path / "out"), run_id="switches",
        chunk_size=1, adapter_poll_s=1e-6,
    )  # fmt: skip
    scripted_pointer(from_0="r0", from_4="broken", from_6="r1", from_9="r2")
    pipeline = beam.Pipeline(runner=FnApiRunner())
    build_pipeline(pipeline, Job(options, FakeScorerFactory(pointer="current"), NOW))
    found = pipeline.run().metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counters = {metric.key.metric.name: metric.committed for metric in found["counters"]}
    distributions = {metric.key.metric.name: metric.committed for metric in found["distributions"]}
    assert counters["adapter_switches"] == 2
    assert counters["adapter_switches_failed"] == 1
    assert counters["images_scored"] == 12
    assert distributions["adapter_switch_ms"].count == 2
    assert len({row["adapter_revision"] for row in rows(tmp_path / "out", "scores")}) == 3


@pytest.mark.integration
def test_a_stream_outlives_a_pointer_to_garbage(tmp_path: Path, pointer: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 2)
    arguments = ["--watch", str(photos), "--every", "0.1", "--chunk-wait-s", "0.1", "--stop-when-idle-s", "2"]

    def meddle() -> None:
        until(lambda: any(output.rglob("*.parquet")))
        publish(pointer, "broken")
        write_photos(photos, 2, first=2)

    meddler = threading.Thread(target=meddle)
    meddler.start()
    code = main(
        [*arguments, "--output", str(output), "--adapter-poll-s", "0.000001", "--no-progress"],
        FakeScorerFactory(pointer=str(pointer)),
    )
    meddler.join()
    assert code == 0
    assert Counter(row["adapter_revision"] for row in rows(output, "scores")) == {"r0": 4}
