"""What sits in state is versioned: written by one version, read by the next."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from apache_beam import coders as beam_coders
from apache_beam.runners.pipeline_context import PipelineContext
from hypothesis import given, settings
from hypothesis import strategies as st

import beam_pipeline.transforms  # noqa: F401  (registers them)
from beam_pipeline import coders
from beam_pipeline.coders import ChunkCoder, ImageRefCoder, ScoredChunkCoder, decode, encode
from schemas.errors import ConfigurationError
from schemas.records import (
    Chunk,
    ImageFacts,
    ImageRef,
    ImageScore,
    ListingProblem,
    Prediction,
    Provenance,
    ScoredChunk,
    ScoringFailure,
)
from tests.beam_pipeline.helpers import NOW, ref

FULL = ImageRef(
    image_uri="gs://photos/ümlaut.jpg",
    image_generation=1_772_366_400_123_456,
    event_time=NOW,
    size_bytes=2_345_678,
    context="a cat",
    passthrough_json='{"n": 1}',
    attempt=3,
    problem=ListingProblem("list", "ListingError", "no such image"),
)
BARE = ImageRef("a.jpg")
CHUNK = Chunk((FULL, BARE))
WHO = Provenance("base", "adapter", "r1", "default", "digit_tree", "0", "cpu", "float32", schema_version=1)
FACTS = ImageFacts("id", 4, 3, 12)
GOOD = ImageScore(FULL, FACTS, Prediction(score=7.25, exposure="Good", composition=9), WHO, "run", NOW)
BAD = ScoringFailure(BARE, ImageFacts(), "decode", "DecodeError", "broken", False, "a", "r1", "run", NOW)
SCORED = ScoredChunk((GOOD, BAD), (replace(GOOD, provenance=replace(WHO, role="challenger")),))

# Written by version 1 of the format. They must be readable for ever: add those of a new version beside them.
VERSION_1: dict[str, tuple[Any, str]] = {
    "full ref": (
        FULL,
        "013f1767733a2f2f70686f746f732fc3bc6d6c6175742e6a706780c987dba6fda50680c0f8daa6fda5069cab9e"
        "02056120636174087b226e223a20317d06046c6973740c4c697374696e674572726f720d6e6f20737563682069"
        "6d616765",
    ),
    "bare ref": (BARE, "010005612e6a706702"),
    "chunk": (
        CHUNK,
        "01023f1767733a2f2f70686f746f732fc3bc6d6c6175742e6a706780c987dba6fda50680c0f8daa6fda5069cab"
        "9e02056120636174087b226e223a20317d06046c6973740c4c697374696e674572726f720d6e6f207375636820"
        "696d6167650005612e6a706702",
    ),
    "scored chunk": (
        SCORED,
        "0102003f1767733a2f2f70686f746f732fc3bc6d6c6175742e6a706780c987dba6fda50680c0f8daa6fda5069c"
        "ab9e02056120636174087b226e223a20317d06046c6973740c4c697374696e674572726f720d6e6f2073756368"
        "20696d6167650f0269640806182100000800401d0000000000001204476f6f6404626173650761646170746572"
        "0272310764656661756c740a64696769745f7472656501300363707507666c6f61743332086368616d70696f6e"
        "020372756e80c0f8daa6fda50601000005612e6a70670200066465636f64650b4465636f64654572726f720662"
        "726f6b656e0001610272310372756e80c0f8daa6fda506086368616d70696f6e01003f1767733a2f2f70686f74"
        "6f732fc3bc6d6c6175742e6a706780c987dba6fda50680c0f8daa6fda5069cab9e02056120636174087b226e22"
        "3a20317d06046c6973740c4c697374696e674572726f720d6e6f207375636820696d6167650f02696408061821"
        "00000800401d0000000000001204476f6f64046261736507616461707465720272310764656661756c740a6469"
        "6769745f7472656501300363707507666c6f617433320a6368616c6c656e676572020372756e80c0f8daa6fda5"
        "06",
    ),
}

texts = st.none() | st.text()
refs = st.builds(
    ImageRef,
    image_uri=st.text(),
    image_generation=st.none() | st.integers(),
    event_time=st.none() | st.datetimes(timezones=st.just(UTC)),
    size_bytes=st.none() | st.integers(min_value=0),
    context=texts,
    passthrough_json=texts,
    attempt=st.integers(min_value=1),
    problem=st.none()
    | st.builds(ListingProblem, stage=st.just("ingest"), error_type=st.text(), message=st.text()),
)


@settings(max_examples=40)
@given(refs)
def test_a_ref_comes_back_as_it_was(image: ImageRef) -> None:
    assert decode(encode(image), ImageRef) == image


@settings(max_examples=20)
@given(st.lists(refs, max_size=4))
def test_a_chunk_comes_back_as_it_was(images: list[ImageRef]) -> None:
    assert decode(encode(Chunk(tuple(images))), Chunk) == Chunk(tuple(images))


@pytest.mark.parametrize("name", VERSION_1)
def test_what_version_1_wrote_is_still_read_and_still_written(name: str) -> None:
    record, golden = VERSION_1[name]
    assert decode(bytes.fromhex(golden), type(record)) == record
    assert coders.VERSION != 1 or encode(record).hex() == golden


def test_bytes_of_a_later_version_are_refused_by_name() -> None:
    later = bytes((coders.VERSION + 1,)) + encode(FULL)[1:]
    with pytest.raises(ConfigurationError, match="an encoded ImageRef has format version 2"):
        decode(later, ImageRef)


@dataclass(frozen=True)
class _Grown:
    name: str
    younger: int = 7
    older: str | None = None
    youngest: str | None = None


def test_a_field_that_joined_later_has_its_default_in_older_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    since = {(_Grown, "younger"): 2, (_Grown, "youngest"): 3}
    monkeypatch.setattr(coders, "_SINCE", since)
    monkeypatch.setattr(coders, "_RECORDS", {})
    written = {}
    for version in (1, 2, 3):
        monkeypatch.setattr(coders, "VERSION", version)
        written[version] = encode(_Grown("n", 1, "o", "y"))
    assert decode(written[1], _Grown) == _Grown("n", 7, "o", None)
    assert decode(written[2], _Grown) == _Grown("n", 1, "o", None)
    assert decode(written[3], _Grown) == _Grown("n", 1, "o", "y")


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"\0"])
def test_damaged_bytes_are_refused(damage: Any) -> None:
    with pytest.raises(ValueError, match="an encoded record"):
        decode(damage(encode(CHUNK)), Chunk)


def test_equal_refs_give_equal_bytes_in_every_zone() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert encode(replace(FULL, event_time=elsewhere)) == encode(FULL)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no zone"):
        encode(replace(FULL, event_time=datetime(2026, 3, 1)))


def test_text_that_is_no_unicode_comes_back() -> None:
    odd = replace(BARE, problem=ListingProblem("list", "OSError", "cannot list \udcff"))
    assert decode(encode(odd), ImageRef) == odd


def test_refs_take_less_than_half_of_what_pickling_takes() -> None:
    plain = ref("gs://bucket/users/2026/03/photo_00001.jpg", image_generation=1_772_366_400_123_456)
    assert len(encode(plain)) * 2 < len(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL))


def test_the_size_of_a_ref_is_told_without_encoding_it() -> None:
    plain = ref("gs://bucket/ümlaut.jpg", image_generation=1_772_366_400_123_456_789, size_bytes=2_345_678)
    for image in (plain, replace(plain, context="a cat", passthrough_json='{"n": 1}')):
        assert ImageRefCoder().estimate_size(image) == pytest.approx(len(encode(image)), abs=5)


@pytest.mark.parametrize(
    ("coder", "record"),
    [(ChunkCoder(), Chunk((FULL,) * 100)), (ScoredChunkCoder(), ScoredChunk((GOOD,) * 100))],
)
def test_the_size_of_a_chunk_is_told_from_one_of_its_records(coder: Any, record: Any) -> None:
    assert coder.estimate_size(record) == pytest.approx(len(encode(record)), rel=0.05)


@pytest.mark.parametrize(
    ("record", "coder"), [(FULL, ImageRefCoder), (CHUNK, ChunkCoder), (SCORED, ScoredChunkCoder)]
)
def test_beam_uses_them_for_our_records_also_after_they_travelled(record: Any, coder: type) -> None:
    found = beam_coders.registry.get_coder(type(record))
    assert type(found) is coder
    context = PipelineContext()
    travelled = beam_coders.Coder.from_runner_api(found.to_runner_api(context), context)
    assert travelled == found
    assert travelled.is_deterministic()
    assert travelled.decode(found.encode(record)) == record
    assert travelled.decode_nested(found.encode_nested(record)) == record
