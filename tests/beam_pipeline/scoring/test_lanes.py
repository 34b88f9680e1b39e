"""While one micro-batch is scored the next is staged; what goes wrong on the way costs no other image."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.scoring.engine import Engine
from beam_pipeline.scoring.fakes import FakePrepared, FakeScorer
from beam_pipeline.scoring.lanes import Lane, Waiting, device_thread
from beam_pipeline.scoring.scorers import StagingScorer
from beam_pipeline.scoring.turns import Turn
from model.images import Room, unbounded
from model.scorer import Scorer
from schemas.errors import ConfigurationError
from schemas.records import Chunk, ImageFacts, ImageScore, Prediction, ScoringFailure
from tests.beam_pipeline.helpers import NOW, SETTINGS, Recorder, ref, write_photos

_PATIENCE_S = 30


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@dataclass
class Stager:
    """Stages in lists; predicts nothing before ``gate`` opens, and remembers who did what, and where."""

    room: int = 10**9
    stage_room: int = 10**9
    failing: type[Exception] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    second_staged: threading.Event = field(default_factory=threading.Event)
    staged: list[int] = field(default_factory=list)
    predicting: set[int] = field(default_factory=set)
    token_budget: int = 4
    provenance = FakeScorer().provenance

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
        return FakePrepared(ImageFacts(), 1, context)

    def stage(self, prepared: Sequence[FakePrepared]) -> tuple[str, list[FakePrepared]]:
        if len(prepared) > self.stage_room:
            raise OutOfMemoryError("out of memory")
        self.staged.append(len(prepared))
        if len(self.staged) == 2:
            self.second_staged.set()
        return "staged", list(prepared)

    def predict(self, prepared: Any) -> list[Prediction]:
        self.predicting.add(threading.get_ident())
        self.gate.wait(_PATIENCE_S)
        word, images = prepared
        assert word == "staged"
        if self.failing is not None:
            raise self.failing("as asked")
        if len(images) > self.room:
            raise OutOfMemoryError("out of memory")
        return [Prediction(score=1.0) for _ in images]


def batch(size: int) -> list[Waiting]:
    image = FakePrepared(ImageFacts(), 1, None)
    return [Waiting(index, ref(f"u{index}"), image.facts, image) for index in range(size)]


def chunk(folder: Path, count: int) -> Chunk:
    return Chunk(tuple(ref(str(path), image_generation=None) for path in write_photos(folder, count)))


def test_the_library_s_scorer_stages_and_one_without_a_device_need_not() -> None:
    assert isinstance(Scorer.__new__(Scorer), StagingScorer)
    assert not isinstance(FakeScorer(), StagingScorer)


def test_the_next_micro_batch_is_staged_while_one_is_scored(tmp_path: Path) -> None:
    scorer = Stager()
    engine = Engine(scorer, SETTINGS, clock=lambda: NOW)

    def open_when_staged() -> None:
        # Without staging ahead the first micro-batch waits in vain, and the event was never set.
        in_time.append(scorer.second_staged.wait(_PATIENCE_S / 2))
        scorer.gate.set()

    in_time: list[bool] = []
    opener = threading.Thread(target=open_when_staged)
    opener.start()
    scored = engine.score(Turn(chunk(tmp_path, 20)), "run", Recorder())
    opener.join()
    assert in_time == [True]
    assert all(isinstance(outcome, ImageScore) for outcome in scored.outcomes)


def test_all_that_predicts_on_a_device_is_one_thread() -> None:
    scorer, device = Stager(), device_thread()
    scorer.gate.set()
    lanes = [Lane(scorer, 4, None, device) for _ in range(2)]
    started = [lane.start(batch(2)) for lane in lanes for _ in range(3)]
    for lane, running in zip([lanes[0]] * 3 + [lanes[1]] * 3, started, strict=True):
        lane.finish(running, Recorder())
    assert len(scorer.predicting) == 1
    assert threading.get_ident() not in scorer.predicting


@pytest.mark.parametrize("where", ["room", "stage_room"])
def test_memory_that_runs_out_in_scoring_or_staging_halves_the_micro_batch_for_good(where: str) -> None:
    scorer = Stager(token_budget=16, **{where: 5})
    scorer.gate.set()
    lane, recorder = Lane(scorer, 64, None, device_thread()), Recorder()
    results = lane.finish(lane.start(batch(16)), recorder)
    assert [type(result) for result in results] == [Prediction] * 16
    assert recorder.batches == [4, 4, 4, 4]
    assert [len(planned) for planned in lane.plan(batch(16))] == [4, 4, 4, 4]


def test_an_image_that_does_not_fit_alone_fails_alone(tmp_path: Path) -> None:
    scorer = Stager(stage_room=0)
    scored = Engine(scorer, SETTINGS, clock=lambda: NOW).score(Turn(chunk(tmp_path, 5)), "run", Recorder())
    assert [type(outcome) for outcome in scored.outcomes] == [ScoringFailure] * 5
    assert {o.error_type for o in scored.outcomes if isinstance(o, ScoringFailure)} == {"OutOfMemoryError"}


def test_a_chunk_that_is_given_up_leaves_nothing_behind_on_the_device(tmp_path: Path) -> None:
    scorer = Stager(failing=ConfigurationError)
    scorer.gate.set()
    engine = Engine(scorer, SETTINGS, clock=lambda: NOW)
    with pytest.raises(ConfigurationError):
        engine.score(Turn(chunk(tmp_path, 20)), "run", Recorder())
    scorer.failing = None
    scored = engine.score(Turn(chunk(tmp_path, 3)), "run", Recorder())
    assert all(isinstance(outcome, ImageScore) for outcome in scored.outcomes)


def test_a_micro_batch_that_is_abandoned_has_ended_or_never_begins() -> None:
    scorer, device = Stager(), device_thread()
    lane = Lane(scorer, 4, None, device)
    first, second = lane.start(batch(2)), lane.start(batch(3))
    second.abandon()
    scorer.gate.set()
    first.abandon()
    assert first.done.done()
    assert second.done.cancelled()
