"""However many chunks come at once and however slow the model is: what is in memory stays bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.scoring import engine as engine_module
from beam_pipeline.scoring.engine import Engine, EngineSettings
from beam_pipeline.scoring.fakes import FakeScorer
from beam_pipeline.scoring.prefetch import Preparer
from beam_pipeline.scoring.turns import Turn
from model.images import Room, decoded_bytes, inspect_image, unbounded
from schemas.errors import DecodeError
from schemas.records import Chunk, ImageFacts, ImageRef, ImageScore, Prediction
from tests.beam_pipeline.helpers import NOW, Recorder, ref
from tests.odd_files import encoded, picture

THREADS, CHUNKS, IMAGES = 8, 12, 40
SETTINGS = EngineSettings(
    fetch_threads=16, prefetch_images=8, micro_batch_images=4, token_budget=None, max_file_bytes=10_000
)


class Gauge:
    """Counts what is there now, and the most there ever was."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        with self._lock:
            self.now += amount
            self.most = max(self.most, self.now)


class Pixels:
    """A prepared image; counted as long as anybody holds it."""

    def __init__(self, gauge: Gauge, facts: ImageFacts) -> None:
        self.facts = facts
        self.visual_tokens = 4
        self.context_used = None
        self._gauge = gauge
        gauge.add(1)

    def __del__(self) -> None:
        self._gauge.add(-1)


class SlowScorer:
    """Takes its time, and counts what the engine holds meanwhile."""

    token_budget = 1000
    provenance = FakeScorer().provenance

    def __init__(self) -> None:
        self.alive, self.files, self.pictures = Gauge(), Gauge(), Gauge()

    def read(self, image: ImageRef, max_file_bytes: int) -> bytes:
        """In place of the store: a file as large as its ref says, or says nothing of."""
        size = image.size_bytes or max_file_bytes
        self.files.add(size)
        time.sleep(0)
        return size.to_bytes(4, "big")

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> Pixels:
        size = int.from_bytes(data, "big")
        try:
            if size % 10 == 3:
                raise DecodeError("broken")
            with room(3 * size):
                self.pictures.add(3 * size)
                time.sleep(0)
                self.pictures.add(-3 * size)
            return Pixels(self.alive, ImageFacts(str(size), size, 1, size))
        finally:
            self.files.add(-size)

    def predict(self, prepared: Sequence[Any]) -> list[Prediction]:
        time.sleep(0.002)
        return [Prediction(score=1.0) for _ in prepared]


def _chunks() -> list[Chunk]:
    sizes = [1000, 4999, 7, 803, 2500, None, 9999]  # 803 is broken, None as large as is allowed
    return [
        Chunk(
            tuple(
                ref(f"{chunk}/{image}", size_bytes=sizes[(chunk + image) % len(sizes)])
                for image in range(IMAGES)
            )
        )
        for chunk in range(CHUNKS)
    ]


def _score(scorer: SlowScorer, settings: EngineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feed an engine as Beam does: every thread brings a chunk as soon as it is rid of the last."""
    monkeypatch.setattr(engine_module, "read_image", scorer.read)
    engine = Engine(scorer, settings, clock=lambda: NOW)
    chunks = _chunks()
    with ThreadPoolExecutor(THREADS) as pool:
        scored = list(pool.map(lambda chunk: engine.score(Turn(chunk), "run", Recorder()), chunks))
    for chunk, done in zip(chunks, scored, strict=True):
        assert [outcome.ref for outcome in done.outcomes] == list(chunk.refs)
        for image, outcome in zip(chunk.refs, done.outcomes, strict=True):
            assert isinstance(outcome, ImageScore) is (image.size_bytes != 803)


def test_a_stream_that_outruns_the_model_does_not_grow_what_is_held_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer = SlowScorer()
    _score(scorer, SETTINGS, monkeypatch)
    # Two chunks are in work; each has its prefetched images, a micro-batch that is not full yet, and one that
    # is being scored.
    per_chunk = SETTINGS.prefetch_images + 2 * SETTINGS.micro_batch_images
    assert SETTINGS.prefetch_images < scorer.alive.most <= 2 * per_chunk
    assert scorer.alive.now == 0


@pytest.mark.parametrize("limit", [10_000, 12_000, 30_000])
def test_files_and_pictures_in_flight_stay_below_the_limit_each(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = SlowScorer()
    _score(scorer, replace(SETTINGS, in_flight_bytes=limit), monkeypatch)
    # A picture of 10,000 px takes 30,000 bytes: where that is more than the limit, it goes alone.
    assert 10_000 <= scorer.files.most <= limit
    assert 30_000 <= scorer.pictures.most <= max(limit, 30_000)


def test_without_limits_these_scorers_would_hold_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_CHUNKS_IN_WORK", THREADS)
    scorer = SlowScorer()
    _score(scorer, replace(SETTINGS, in_flight_bytes=10**9), monkeypatch)
    assert scorer.alive.most > 2 * (SETTINGS.prefetch_images + SETTINGS.micro_batch_images)
    assert scorer.files.most > 12_000


def test_other_chunks_wait_with_nothing_but_their_refs(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, touched = SlowScorer(), set[str]()
    two, go_on = threading.Event(), threading.Event()

    def read(image: ImageRef, max_file_bytes: int) -> bytes:
        touched.add(image.image_uri.split("/")[0])
        if len(touched) >= 2:
            two.set()
        return scorer.read(image, max_file_bytes)

    def predict(prepared: Sequence[Any]) -> list[Prediction]:
        go_on.wait()
        return [Prediction(score=1.0) for _ in prepared]

    monkeypatch.setattr(engine_module, "read_image", read)
    monkeypatch.setattr(scorer, "predict", predict)
    engine = Engine(scorer, SETTINGS, clock=lambda: NOW)
    with ThreadPoolExecutor(THREADS) as pool:
        work = [pool.submit(engine.score, Turn(chunk), "run", Recorder()) for chunk in _chunks()]
        assert two.wait(60)
        time.sleep(0.1)  # a third one's chance
        assert len(touched) == 2
        assert not any(chunk.done() for chunk in work)
        go_on.set()
        assert all(len(chunk.result().outcomes) == IMAGES for chunk in work)
    assert len(touched) == CHUNKS


def test_an_image_that_fails_keeps_no_hold_on_its_bytes() -> None:
    kept: list[int] = []

    class Data(bytes):
        def __del__(self) -> None:
            kept.remove(1)

    def fetch(image: ImageRef) -> bytes:
        kept.append(1)
        return Data(b"bytes")

    def prepare(data: bytes, image: ImageRef) -> None:
        try:
            raise KeyError(data[0])
        except KeyError as error:
            raise DecodeError("broken") from error

    arrival = Preparer(fetch, prepare)(0, ref("a"))
    assert isinstance(arrival.error, DecodeError)
    assert not kept


def test_the_fake_scorer_asks_for_room_as_a_real_one(tmp_path: Path) -> None:
    asked: list[int] = []

    @contextmanager
    def room(size: int):  # type: ignore[no-untyped-def]
        asked.append(size)
        yield

    data = encoded(picture(90, 70), "JPEG")
    FakeScorer().prepare(data, room=room)
    assert asked == [90 * 70 * 3] == [decoded_bytes(inspect_image(data))]
