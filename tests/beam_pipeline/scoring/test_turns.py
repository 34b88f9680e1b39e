"""What comes after a chunk is begun while that is scored; it changes no row."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

import beam_pipeline.scoring.engine as engine_module
from beam_pipeline.coders import TurnCoder, register_coders
from beam_pipeline.job import Job
from beam_pipeline.options import ScoringOptions
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.scoring.engine import Engine, release_engines
from beam_pipeline.scoring.fakes import FakePrepared, FakeScorer, FakeScorerFactory
from beam_pipeline.scoring.scorers import AdapterFollower
from beam_pipeline.scoring.turns import Turn
from beam_pipeline.transforms import ScoreChunks, _InTurn
from model.images import Room, unbounded
from schemas.records import Chunk, ImageFacts, ImageRef, ImageScore, Prediction
from tests.beam_pipeline.helpers import NOW, SETTINGS, Recorder, ref, write_photos

PATIENCE_S = 60


def _turns(*chunks: Chunk) -> list[Turn]:
    """As a Beam thread brings them: each knows the one after it."""
    turns = [Turn(chunk) for chunk in chunks]
    for turn, following in pairwise(turns):
        turn.following = following
    return turns


def _chunk(name: str, images: int) -> Chunk:
    return Chunk(tuple(ref(f"{name}/{number:02}") for number in range(images)))


class Watched:
    """A scorer that notes what is prepared, and by whom, and lets the test hold the model up."""

    token_budget = 1000
    provenance = FakeScorer().provenance

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.go_on = threading.Event()
        self.predicting = threading.Event()

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
        self.prepared.append(data.decode())
        return FakePrepared(ImageFacts(data.decode(), 1, 1, len(data)), 1, context)

    def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
        self.predicting.set()
        assert self.go_on.wait(PATIENCE_S)
        return [Prediction(score=1.0, reasons=image.facts.image_id) for image in prepared]

    def of(self, name: str) -> int:
        return sum(uri.startswith(name) for uri in list(self.prepared))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(engine_module, "read_image", lambda image, most: image.image_uri.encode())
    return Watched()


def _engine(scorer: Any, **known: Any) -> Engine:
    return Engine(scorer, SETTINGS, clock=lambda: NOW, **known)


def _reasons(engine: Engine, turn: Turn) -> list[Any]:
    outcomes = engine.score(turn, "run", Recorder()).outcomes
    return [outcome.prediction.reasons for outcome in outcomes if isinstance(outcome, ImageScore)]


def _until(there: Any) -> None:
    pause = threading.Event()
    for _ in range(PATIENCE_S * 100):
        if there():
            return
        pause.wait(0.01)
    pytest.fail("it never came")


def test_the_first_images_of_the_next_chunk_are_prepared_while_the_last_ones_of_this_are_scored(
    watched: Watched,
) -> None:
    engine, (first, second) = _engine(watched), _turns(_chunk("a", 4), _chunk("b", 40))
    with ThreadPoolExecutor(1) as pool:
        scored = pool.submit(_reasons, engine, first)
        assert watched.predicting.wait(PATIENCE_S)
        # A quarter and a half of a window of four, no more.
        _until(lambda: watched.of("b") == 3)
        assert not scored.done()
        watched.go_on.set()
        assert scored.result() == [image.image_uri for image in first.chunk.refs]
    assert watched.of("b") == 3
    assert _reasons(engine, second) == [image.image_uri for image in second.chunk.refs]
    assert watched.of("b") == 40, "and none of them twice"
    assert second.begun is None


def test_nothing_is_begun_before_all_images_of_this_chunk_are_on_their_way(watched: Watched) -> None:
    watched.go_on.set()
    first, second = _turns(_chunk("a", 30), _chunk("b", 5))
    _reasons(_engine(watched), first)
    _until(lambda: watched.of("b") == 3)
    begun = next(place for place, uri in enumerate(watched.prepared) if uri.startswith("b"))
    # Two threads take the images in order, so one of this chunk may still be ahead of its neighbour.
    assert begun >= 29
    assert second.begun is not None


def test_where_several_threads_bring_chunks_nothing_is_begun_ahead(watched: Watched) -> None:
    engine = _engine(watched)
    turns = _turns(_chunk("a", 3), _chunk("c", 3)), _turns(_chunk("b", 3), _chunk("d", 3))
    both, whole = threading.Barrier(2, timeout=PATIENCE_S), engine._begin_following

    def both_there(*more: Any) -> None:
        both.wait()
        whole(*more)
        both.wait()
        watched.go_on.set()

    engine._begin_following = both_there  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        scored = [pool.submit(_reasons, engine, first) for first, _ in turns]
        assert [len(one.result()) for one in scored] == [3, 3]
    assert [second.begun for _, second in turns] == [None, None]
    assert watched.of("c") + watched.of("d") == 0


def test_what_was_prepared_for_one_adapter_is_not_given_to_the_next(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.go_on.set()
    next_one = Watched()
    next_one.go_on.set()

    class Follower(AdapterFollower):
        loaded = "old"
        said = "old"

        def look(self) -> str:
            return self.said

        def prepare(self, said: str, champion: Any) -> Any:
            return lambda: next_one

    follower = Follower()
    engine = Engine(watched, replace(SETTINGS, adapter_poll_s=0.0), clock=lambda: NOW, follower=follower)  # type: ignore[arg-type]
    first, second = _turns(_chunk("a", 3), _chunk("b", 3))
    _reasons(engine, first)
    assert second.begun is not None
    follower.said = "new"
    abandoned = second.begun[1]
    assert _reasons(engine, second) == [image.image_uri for image in second.chunk.refs]
    assert next_one.of("b") == 3, "each was prepared by the adapter that scored it"
    assert all(future.done() for window in abandoned._ahead for future in window)


def test_what_was_begun_of_a_chunk_whose_turn_never_comes_is_given_up(watched: Watched) -> None:
    class Blocked(ThreadPoolExecutor):
        """One thread, which is busy."""

        def __init__(self) -> None:
            super().__init__(1)
            self.submit(watched.go_on.wait, PATIENCE_S)

    engine = _engine(watched)
    with Blocked() as pool:
        engine._pool = pool
        turn = Turn(_chunk("a", 1), Turn(_chunk("b", 40)))
        engine._begin_following(turn, engine._serving._lane)
        assert turn.following is None or turn.following.begun is None, "nobody calls: nobody is alone"
        with engine._calling():
            engine._begin_following(turn, engine._serving._lane)
        assert turn.following is not None
        assert turn.following.begun is not None
        futures = [future for window in turn.following.begun[1]._ahead for future in window]
        assert len(futures) == 3
        turn.following = None
        assert all(future.cancelled() for future in futures)
        watched.go_on.set()


class _Watching(Engine):
    """Notes which turns know what comes; as a class, since a job finds its engine by its own way."""

    known: ClassVar[list[bool]] = []

    def score(self, turn: Turn, *more: Any) -> Any:
        self.known.append(turn.following is not None)
        return super().score(turn, *more)


def test_on_one_machine_every_chunk_of_a_bundle_but_the_last_knows_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Watching.known.clear()
    monkeypatch.setattr(engine_module, "Engine", _Watching)
    release_engines()
    photos = write_photos(tmp_path, 9)
    chunks = [Chunk((ref(str(path), image_generation=None),)) for path in photos]
    options = ScoringOptions(input=(str(tmp_path),), output="o", run_id="r")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        made = pipeline | beam.Create([chunks]) | beam.FlatMap(list).with_output_types(Chunk)
        scored, _ = made | ScoreChunks(Job(options, FakeScorerFactory(), NOW))
        uris = scored | beam.Map(lambda chunk: chunk.outcomes[0].ref.image_uri)
        assert_that(uris, equal_to([str(path) for path in photos]))
    release_engines()
    assert _Watching.known == [True] * 8 + [False]


@pytest.mark.parametrize(
    ("source", "arguments", "is_held"),
    [
        ({"input": ("x",)}, [], True),
        ({"manifest": "x.csv"}, ["--runner=DirectRunner"], True),
        ({"input": ("x",)}, ["--runner=DataflowRunner"], False),
        ({"input": ("x",)}, ["--runner=FlinkRunner"], False),
        ({"watch": "gs://photos/2026/"}, ["--streaming"], False),
        ({"subscription": "projects/project/subscriptions/photos"}, ["--streaming"], False),
    ],
)
def test_chunks_are_held_until_the_next_is_known_where_one_thread_brings_a_bounded_number(
    source: dict[str, Any], arguments: list[str], is_held: bool
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(arguments))
    build_pipeline(pipeline, Job(ScoringOptions(output="o", **source), FakeScorerFactory(), NOW))
    steps: dict[str, Any] = {}

    class Visitor(PipelineVisitor):  # type: ignore[misc]
        def visit_transform(self, applied: Any) -> None:
            steps[applied.full_label] = getattr(applied.transform, "fn", None)

    pipeline.visit(Visitor())
    assert isinstance(steps["ScoreChunks/AsBatch"], _InTurn) is is_held


def test_rows_are_the_same_with_and_without_knowing_what_comes(tmp_path: Path) -> None:
    photos = write_photos(tmp_path, 23)
    photos[3].write_bytes(b"no image")
    photos[20].unlink()
    refs: list[ImageRef] = [ref(str(path), image_generation=None) for path in photos]
    chunks = [Chunk(tuple(refs[begin:end])) for begin, end in ((0, 1), (1, 9), (9, 9), (9, 23))]
    alone = [_engine(FakeScorer()).score(Turn(chunk), "run", Recorder()) for chunk in chunks]
    engine, recorder = _engine(FakeScorer()), Recorder()
    assert [engine.score(turn, "run", recorder) for turn in _turns(*chunks)] == alone
    assert len(recorder.outcomes) == 23


def test_turns_keep_the_time_and_window_of_their_chunks_and_know_what_comes(tmp_path: Path) -> None:
    register_coders()
    chunks = [_chunk(f"c{number}", 1) for number in range(7)]

    def told(
        turns: list[Turn], timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> tuple[str, str | None, float, float]:
        (turn,) = turns
        following = turn.following and turn.following.chunk.refs[0].image_uri
        return turn.chunk.refs[0].image_uri, following, float(timestamp), float(window.start)

    names = [f"c{number}/00" for number in range(7)]
    expected = [
        (name, following, 10.0 * number, 20.0 * (number // 2))
        for number, (name, following) in enumerate(zip(names, [*names[1:], None], strict=True))
    ]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        timed = [TimestampedValue(chunk, 10 * number) for number, chunk in enumerate(chunks)]
        made = pipeline | beam.Create([timed]) | beam.FlatMap(lambda part: part).with_output_types(Chunk)
        windowed = made | beam.WindowInto(FixedWindows(20))
        seen = windowed | beam.ParDo(_InTurn()).with_output_types(list[Turn]) | beam.Map(told)
        assert_that(seen, equal_to(expected))


def test_a_turn_that_crosses_a_step_boundary_is_its_chunk_alone() -> None:
    first, second = _turns(_chunk("a", 3), _chunk("b", 40))
    coder = TurnCoder()
    assert coder.decode(coder.encode(first)) == Turn(first.chunk)
    # Beam asks for sizes while what was begun, which nothing can encode, hangs on it.
    second.begun = (threading.Lock(), os)  # type: ignore[assignment]
    assert coder.estimate_size(second) > coder.estimate_size(first) > 0
    assert coder.decode(coder.encode(second)) == Turn(second.chunk)
