"""A second adapter scores a stated share of the images, beside the first, and disturbs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.__main__ import main
from beam_pipeline.job import Job
from beam_pipeline.options import ScoringOptions
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.scoring.challengers import in_share
from beam_pipeline.scoring.engine import Engine
from beam_pipeline.scoring.fakes import FakePrepared, FakeScorer, FakeScorerFactory
from beam_pipeline.scoring.handler import NAMESPACE
from beam_pipeline.scoring.scorers import Challenger
from beam_pipeline.scoring.turns import Turn
from beam_pipeline.sources.chunks import shard_of
from model.images import Room, unbounded
from model.scorer import Scorer
from schemas.errors import ConfigurationError, DecodeError
from schemas.manifest import ImageRule
from schemas.records import Chunk, ImageFacts, ImageScore, Prediction, ScoringFailure
from tests.beam_pipeline.helpers import NOW, SETTINGS, Recorder, ref, rows, uris, write_photos
from tests.model.artefact import Artefact, write_artefact

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


# --- the share ---------------------------------------------------------------------------------------


def test_the_share_is_a_pure_function_of_the_uri_and_stays_what_it_was() -> None:
    taken = [number for number in range(200) if in_share(f"gs://photos/{number}.jpg", 0.05)]
    assert taken == [1, 8, 17, 64, 81, 95, 125, 148, 164, 191]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_of_many_images_the_stated_share_is_taken(share: float) -> None:
    taken = sum(in_share(f"photo_{number}", share) for number in range(40_000))
    assert taken == pytest.approx(40_000 * share, rel=0.1)


# Without subnormal ones: a scorer that ran before in this process flushes them to zero.
SHARES = st.floats(0, 1, allow_subnormal=False)


@given(uri=st.text(), smaller=SHARES, larger=SHARES)
def test_a_larger_share_holds_the_smaller_one_and_the_whole_holds_all(
    uri: str, smaller: float, larger: float
) -> None:
    smaller, larger = sorted((smaller, larger))
    assert in_share(uri, larger) or not in_share(uri, smaller)
    assert in_share(uri, 1.0)
    assert not in_share(uri, 0.0)


def test_every_chunk_has_its_part_of_the_share() -> None:
    """Chunks are made by a hash of the uri: were it the same one, the share would be some chunks whole."""
    found = [0] * 16
    for number in range(32_000):
        uri = f"photo_{number}"
        found[shard_of(uri, 16)] += in_share(uri, 0.25)
    assert min(found) > 400
    assert max(found) < 600


# --- the engine --------------------------------------------------------------------------------------


@dataclass
class Rival:
    """A challenger of another pixel budget that cannot do everything: an image's bytes say what."""

    token_budget: int = 6
    provenance = replace(FakeScorer(revision="rival").provenance, role="challenger", adapter="rival")

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
        if data == b"narrow":
            raise DecodeError("too narrow for this budget")
        return FakePrepared(ImageFacts(data.decode(), 2, 2, len(data)), 3, None)

    def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
        assert sum(image.visual_tokens for image in prepared) <= self.token_budget
        if any(image.facts.image_id == "poison" for image in prepared):
            raise RuntimeError("shapes do not match")
        return [Prediction(score=2.0, reasons=str(image.facts.image_id)) for image in prepared]


@dataclass
class First:
    """The champion of the same test."""

    token_budget: int = 100
    provenance = FakeScorer(revision="first").provenance

    def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
        if data == b"undecodable":
            raise DecodeError("not an image")
        return FakePrepared(ImageFacts(data.decode(), 2, 2, len(data)), 1, context)

    def predict(self, prepared: Sequence[FakePrepared]) -> list[Prediction]:
        return [Prediction(score=1.0, reasons=str(image.facts.image_id)) for image in prepared]


def chunk_of(folder: Path, scripts: Sequence[str]) -> Chunk:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.jpg" for number in range(len(scripts))]
    for path, script in zip(paths, scripts, strict=True):
        path.write_text(script)
    return Chunk(tuple(ref(str(path), image_generation=None) for path in paths))


def engine_of(share: float, **options: Any) -> Engine:
    first: Any = First()
    return Engine(first, SETTINGS, challenger=Challenger(Rival(**options), share), clock=lambda: NOW)


def test_exactly_the_images_of_the_share_have_a_second_outcome_in_the_order_of_the_refs(
    tmp_path: Path,
) -> None:
    chunk, recorder = chunk_of(tmp_path / "in", [f"{number}" for number in range(60)]), Recorder()
    scored = engine_of(0.3).score(Turn(chunk), "run", recorder)
    assert [outcome.ref for outcome in scored.outcomes] == list(chunk.refs)
    wanted = [image.image_uri for image in chunk.refs if in_share(image.image_uri, 0.3)]
    assert 0 < len(wanted) < 60
    assert uris(list(scored.challenger_outcomes)) == wanted
    for outcome in scored.challenger_outcomes:
        assert isinstance(outcome, ImageScore)
        assert (outcome.provenance.role, outcome.provenance.adapter_revision) == ("challenger", "rival")
        assert outcome.prediction.reasons == Path(outcome.ref.image_uri).read_text()
        assert outcome.run_id == "run"
    # Counted apart: 60 images, not 60 and some.
    assert len(recorder.outcomes) == 60
    assert len(recorder.challenged_outcomes) == len(wanted)


def test_the_champions_outcomes_are_those_of_a_job_without_challenger(tmp_path: Path) -> None:
    chunk = chunk_of(tmp_path / "in", ["a", "undecodable", "b", "poison", "narrow", "c"])
    first: Any = First()
    alone = Engine(first, SETTINGS, clock=lambda: NOW).score(Turn(chunk), "run", Recorder())
    assert alone.challenger_outcomes == ()
    assert engine_of(1.0).score(Turn(chunk), "run", Recorder()).outcomes == alone.outcomes


def test_a_challengers_failures_are_its_own_and_what_nobody_can_read_is_one_row(tmp_path: Path) -> None:
    chunk = chunk_of(tmp_path / "in", ["fine", "undecodable", "narrow", "poison"])
    gone = ref(str(tmp_path / "gone.jpg"))
    scored = engine_of(1.0).score(Turn(Chunk((*chunk.refs, gone))), "run", Recorder())
    failed = [outcome for outcome in scored.outcomes if isinstance(outcome, ScoringFailure)]
    assert [(o.stage, o.role, o.adapter_revision) for o in failed] == [
        ("decode", "champion", "first"),
        ("fetch", "champion", "first"),
    ]
    fine, narrow, poison = scored.challenger_outcomes
    assert isinstance(fine, ImageScore)
    assert isinstance(narrow, ScoringFailure)
    assert isinstance(poison, ScoringFailure)
    told = [(o.stage, o.error_type, o.role, o.adapter, o.adapter_revision) for o in (narrow, poison)]
    assert told == [
        ("decode", "DecodeError", "challenger", "rival", "rival"),
        ("score", "RuntimeError", "challenger", "rival", "rival"),
    ]
    assert narrow.facts.image_id == "narrow"


def test_a_challengers_micro_batches_are_filled_across_windows_by_its_own_budget(tmp_path: Path) -> None:
    chunk, recorder = chunk_of(tmp_path / "in", [f"{number}" for number in range(16)]), Recorder()
    engine_of(1.0, token_budget=9).score(Turn(chunk), "run", recorder)
    # Four of the champion's at a time; three tokens an image and nine a micro-batch for the challenger.
    assert sorted(recorder.batches) == [1, 3, 3, 3, 3, 3, 4, 4, 4, 4]


def test_a_configuration_error_of_the_challenger_stops_the_job(tmp_path: Path) -> None:
    chunk = chunk_of(tmp_path / "in", ["fine"])

    class Wrong(Rival):
        def prepare(self, data: bytes, *, context: str | None = None, room: Room = unbounded) -> FakePrepared:
            raise ConfigurationError("no such template")

    first: Any = First()
    engine = Engine(first, SETTINGS, challenger=Challenger(Wrong(), 1.0))
    with pytest.raises(ConfigurationError):
        engine.score(Turn(chunk), "run", Recorder())


# --- whole jobs --------------------------------------------------------------------------------------


@pytest.mark.integration
def test_metrics_count_champions_and_challengers_apart(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    options = ScoringOptions(input=(str(tmp_path / "photos"),), output=str(tmp_path / "out"), run_id="pair")
    factory = FakeScorerFactory(challenger=FakeScorer(revision="rival"), challenger_share=0.5)
    pipeline = beam.Pipeline(runner=FnApiRunner())
    build_pipeline(pipeline, Job(options, factory, NOW))
    found = pipeline.run().metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counters = {metric.key.metric.name: metric.committed for metric in found["counters"]}
    taken = sum(in_share(str(path), 0.5) for path in photos)
    assert 0 < taken < 20
    assert (counters["images_scored"], counters["challenger_images"]) == (20, taken)
    roles = [row["role"] for row in rows(tmp_path / "out", "scores")]
    assert (roles.count("champion"), roles.count("challenger")) == (20, taken)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artefact, Artefact]:
    """Two adapters of one base, unlike in pixel budget and LoRA."""
    folder = tmp_path_factory.mktemp("pair")
    rule = ImageRule(min_pixels=28 * 28 * 9, max_pixels=28 * 28 * 25)
    first = write_artefact(folder / "first")
    return first, write_artefact(folder / "second", lora_seed=7, name="second", image=rule)


@pytest.mark.integration
def test_a_job_with_two_real_adapters_writes_what_each_says_alone(
    tmp_path: Path, pair: tuple[Artefact, Artefact]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    paths = write_photos(photos, 24)
    (photos / "bad.jpg").write_bytes(b"no image")
    arguments = ["--input", str(photos), "--output", str(output), "--adapter", str(pair[0].adapter)]
    more = ["--challenger", str(pair[1].adapter), "--challenger-share", "0.4", "--no-progress"]
    assert main([*arguments, *more]) == 0
    scored = rows(output, "scores")
    for role, artefact in zip(("champion", "challenger"), pair, strict=True):
        scorer = Scorer.load(artefact.adapter)
        of_role = {row["image_uri"]: row for row in scored if row["role"] == role}
        wanted = [path for path in paths if role == "champion" or in_share(str(path), 0.4)]
        assert sorted(of_role) == [str(path) for path in wanted]
        for path, expected in zip(wanted, scorer.score(wanted), strict=True):
            row = of_role[str(path)]
            assert row["adapter_revision"] == scorer.provenance.adapter_revision
            for name in ("score", "score_std", "exposure_expected", "composition_confidence", "format_mass"):
                assert row[name] == pytest.approx(getattr(expected, name), abs=1e-4)
            assert (row["exposure"], row["level_shot"]) == (expected.exposure, expected.level_shot)
    failures = rows(output, "failures")
    assert [(row["image_uri"], row["role"]) for row in failures] == [(str(photos / "bad.jpg"), "champion")]


@pytest.mark.integration
def test_a_pair_that_cannot_be_stops_the_job_with_every_reason(
    tmp_path: Path, pair: tuple[Artefact, Artefact], capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos", 1)
    arguments = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    elsewhere = write_artefact(tmp_path / "elsewhere", seed=3)
    adapters = ["--adapter", str(pair[0].adapter), "--challenger", str(elsewhere.adapter)]
    assert main([*arguments, *adapters, "--challenger-share", "7"]) == 2
    told = capsys.readouterr().err
    assert "--challenger-share 7" in told
    assert "another base model" in told
    assert not (tmp_path / "out").exists()
