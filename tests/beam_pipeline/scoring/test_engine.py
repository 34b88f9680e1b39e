from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.scoring.engine import (
    Engine,
    EngineSettings,
    default_fetch_threads,
    pinned_engine,
    release_engines,
)
from beam_pipeline.scoring.fakes import FakePrepared, FakeScorer, FakeScorerFactory
from beam_pipeline.scoring.prefetch import Preparer, WindowsAhead
from beam_pipeline.scoring.scorers import Serving
from beam_pipeline.scoring.turns import Turn
from model.images import Room, unbounded
from schemas.errors import ConfigurationError, DecodeError
from schemas.records import (
    Chunk,
    ImageFacts,
    ImageRef,
    ImageScore,
    ListingProblem,
    Prediction,
    ScoringFailure,
)
from tests.beam_pipeline.helpers import NOW, SETTINGS, Recorder, ref, write_photos


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class AcceleratorError(RuntimeError):
    """Named as torch names it."""


@dataclass
class ScriptedScorer:
    """Does what a file says: its bytes are the script."""

    capacity: int = 10**9
    token_budget: int = 100
    provenance = FakeScorer().provenance

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
        if data == b"undecodable":
            raise DecodeError("not an image")
        if data == b"bug":
            raise KeyError("a mistake of ours")
        tokens = int(data.split()[-1]) if data.startswith(b"size") else 4
        return FakePrepared(ImageFacts(data.decode(), 1, 1, len(data)), tokens, context)

    def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
        scripts = [str(image.facts.image_id) for image in prepared]
        if "configuration" in scripts:
            raise ConfigurationError("no such template")
        if "device" in scripts:
            raise AcceleratorError("device-side assert triggered")
        if "poison" in scripts:
            raise RuntimeError("shapes do not match")
        if sum(image.visual_tokens for image in prepared) > self.capacity:
            raise OutOfMemoryError("out of memory")
        if "short" in scripts:
            return []
        return [Prediction(score=1.0, reasons=script) for script in scripts]


def _write(folder: Path, scripts: Sequence[str]) -> Chunk:
    folder.mkdir(parents=True, exist_ok=True)
    refs = []
    for number, script in enumerate(scripts):
        path = folder / f"{number:03}.jpg"
        path.write_text(script)
        refs.append(ref(str(path), image_generation=None))
    return Chunk(tuple(refs))


def _engine(scorer: object, settings: EngineSettings = SETTINGS) -> Engine:
    return Engine(scorer, settings, clock=lambda: NOW)  # type: ignore[arg-type]


_SCRIPTS = [
    "fine 1",
    "fine 2",
    "fine 3",
    "undecodable",
    "bug",
    "poison",
    "short",
    "size 7",
    "size 30",
    "size 900",
]


@given(scripts=st.lists(st.sampled_from(_SCRIPTS), max_size=40), capacity=st.sampled_from([10, 40, 10**9]))
def test_every_ref_becomes_exactly_one_outcome_in_order_and_the_bad_ones_alone_fail(
    tmp_path_factory: pytest.TempPathFactory, scripts: list[str], capacity: int
) -> None:
    chunk = _write(tmp_path_factory.mktemp("chunk"), scripts)
    recorder = Recorder()
    scored = _engine(ScriptedScorer(capacity)).score(Turn(chunk), "run", recorder)
    assert [outcome.ref for outcome in scored.outcomes] == list(chunk.refs)
    for script, outcome in zip(scripts, scored.outcomes, strict=True):
        if script.startswith("fine") or (script.startswith("size") and int(script.split()[1]) <= capacity):
            assert isinstance(outcome, ImageScore)
            assert outcome.prediction.reasons == script
        else:
            assert isinstance(outcome, ScoringFailure)
    assert sorted(map(id, recorder.outcomes)) == sorted(map(id, scored.outcomes))


def test_each_failure_says_stage_type_and_whether_to_retry(tmp_path: Path) -> None:
    scripts = ["undecodable", "bug", "poison", "size 900", "short", "fine"]
    chunk = _write(tmp_path, scripts)
    gone = ref(str(tmp_path / "gone.jpg"))
    unlisted = ref("dangling.jpg", problem=ListingProblem("list", "ListingError", "dangling symbolic link"))
    changed = replace(chunk.refs[5], image_generation=7)
    large = ref(str(tmp_path / "large.jpg"), image_generation=None)
    (tmp_path / "large.jpg").write_bytes(b"x" * 2000)
    refs = (*chunk.refs[:5], gone, unlisted, changed, large)
    engine = _engine(ScriptedScorer(capacity=100), replace(SETTINGS, max_file_bytes=1000))
    outcomes = engine.score(Turn(Chunk(refs)), "run", Recorder()).outcomes
    told = [(o.stage, o.error_type, o.retryable) for o in outcomes if isinstance(o, ScoringFailure)]
    assert told == [
        ("decode", "DecodeError", False),
        ("decode", "KeyError", False),
        ("score", "RuntimeError", False),
        ("score", "OutOfMemoryError", True),
        ("score", "InferenceError", False),
        ("fetch", "FetchError", False),
        ("list", "ListingError", False),
        ("fetch", "FetchError", True),
        ("decode", "ImageLimitError", False),
    ]
    assert all(outcome.run_id == "run" for outcome in outcomes)


def test_an_undecodable_image_still_has_its_hash_and_length(tmp_path: Path) -> None:
    (outcome,) = _engine(ScriptedScorer()).score(Turn(_write(tmp_path, ["bug"])), "run", Recorder()).outcomes
    assert outcome.facts.size_bytes == 3
    assert outcome.facts.image_id is not None
    assert len(outcome.facts.image_id) == 64


def test_running_out_of_memory_makes_later_micro_batches_smaller(tmp_path: Path) -> None:
    settings = replace(SETTINGS, prefetch_images=64, micro_batch_images=16, token_budget=64)
    recorder = Recorder()
    engine = _engine(ScriptedScorer(capacity=20), settings)
    engine.score(Turn(_write(tmp_path, ["fine"] * 32)), "run", recorder)
    assert sum(recorder.batches) == 32
    recorder.batches.clear()
    engine.score(Turn(_write(tmp_path, ["fine"] * 32)), "run", recorder)
    # 16 images of 4 tokens did not fit into 20, nor 8; 4 did.
    assert set(recorder.batches) == {4}


def test_a_lost_device_and_a_wrong_configuration_are_not_blamed_on_images(tmp_path: Path) -> None:
    with pytest.raises(AcceleratorError):
        _engine(ScriptedScorer()).score(Turn(_write(tmp_path, ["fine", "device"])), "run", Recorder())
    with pytest.raises(ConfigurationError):
        _engine(ScriptedScorer()).score(Turn(_write(tmp_path, ["configuration"])), "run", Recorder())


def test_a_partly_filled_micro_batch_is_filled_from_the_next_window(tmp_path: Path) -> None:
    settings = replace(SETTINGS, prefetch_images=6, micro_batch_images=4)
    recorder = Recorder()
    _engine(ScriptedScorer(), settings).score(Turn(_write(tmp_path, ["fine"] * 11)), "run", recorder)
    assert recorder.batches == [4, 4, 3]


def test_no_more_images_than_allowed_are_between_fetching_and_the_model() -> None:
    held = most = 0
    lock = threading.Lock()

    def prepare(data: bytes, image: ImageRef) -> FakePrepared:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return FakePrepared(ImageFacts(), 1, None)

    refs = [ref(f"u{number}") for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        windows = WindowsAhead(refs, Preparer(lambda image: b"", prepare), pool, 5)
        for arrivals in windows.arrivals(lambda: None):
            with lock:
                held -= len(arrivals)
    # One window with the caller, one ahead.
    assert most <= 10


def test_the_first_windows_are_small_so_that_the_model_starts_early() -> None:
    prepare = Preparer(lambda image: b"", lambda data, image: FakePrepared(ImageFacts(), 1, None))
    refs = [ref(f"u{number}") for number in range(100)]
    with ThreadPoolExecutor(2) as pool:
        found = list(WindowsAhead(refs, prepare, pool, 32).arrivals(lambda: None))
        few = list(WindowsAhead(refs[:3], prepare, pool, 1).arrivals(lambda: None))
    assert [len(arrivals) for arrivals in few] == [1, 1, 1]
    assert [len(arrivals) for arrivals in found] == [8, 16, 32, 32, 12]
    assert [arrival.ref for arrivals in found for arrival in arrivals] == refs


def test_micro_batches_do_not_depend_on_which_thread_was_faster(tmp_path: Path) -> None:
    chunk = _write(tmp_path, [f"size {number % 13 + 1}" for number in range(40)])
    seen = set()
    for threads in (1, 2, 8):
        recorder = Recorder()
        settings = replace(SETTINGS, fetch_threads=threads, token_budget=20)
        _engine(ScriptedScorer(), settings).score(Turn(chunk), "run", recorder)
        seen.add(tuple(outcome.ref.image_uri for outcome in recorder.outcomes))
    assert len(seen) == 1


def test_a_context_of_special_tokens_is_data(tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path, 1)
    image = ref(str(photo), image_generation=os.stat(photo).st_mtime_ns, context="<|image_pad|>")
    (outcome,) = _engine(FakeScorer()).score(Turn(Chunk((image,))), "run", Recorder()).outcomes
    assert isinstance(outcome, ImageScore)
    assert outcome.ref.context == "<|image_pad|>"


@pytest.mark.parametrize(("cores", "threads"), [(1, 4), (16, 16), (96, 96)])
def test_threads_follow_the_cores_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert default_fetch_threads() == threads
    monkeypatch.delattr(os, "sched_getaffinity")
    assert default_fetch_threads() == 128


def test_an_engine_is_loaded_once_a_process_whoever_asks() -> None:
    loads = []

    @dataclass(frozen=True)
    class CountingFactory(FakeScorerFactory):
        def load(self) -> Serving:
            loads.append(1)
            return Serving(FakeScorer())

    release_engines()
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(lambda _: pinned_engine(CountingFactory(), SETTINGS), range(16)))
    assert len(loads) == 1
    assert len(set(map(id, engines))) == 1
    release_engines()


def test_an_error_that_quotes_an_undecodable_name_becomes_a_message_that_a_row_can_hold() -> None:
    engine = _engine(FakeScorer())
    image = ImageRef("x", event_time=NOW, problem=ListingProblem("list", "ListingError", "caf\udce9"))
    (outcome,) = engine.score(Turn(Chunk((image,))), "run", Recorder()).outcomes
    assert isinstance(outcome, ScoringFailure)
    assert outcome.message.encode() == b"caf\\udce9"
