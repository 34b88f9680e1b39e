from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from math import isqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.sources.chunks import (
    Span,
    by_shard,
    count_days,
    cut_chunks,
    event_day,
    in_parcels,
    parcel_of,
    plan_spans,
    refs_of,
    shard_count,
    shard_of,
)
from tests.beam_pipeline.helpers import NOW, ref

_uris = st.lists(st.text("abc/é", min_size=1, max_size=6), max_size=60)


@given(_uris, st.integers(1, 7))
def test_every_uri_is_in_exactly_one_chunk_and_no_chunk_is_too_large(uris: list[str], size: int) -> None:
    chunks = cut_chunks([ref(uri) for uri in uris], size)
    found = [image.image_uri for chunk in chunks for image in chunk.refs]
    assert found == sorted(set(uris))
    assert all(1 <= len(chunk.refs) <= size for chunk in chunks)


@given(_uris, st.integers(1, 7), st.randoms())
def test_chunks_depend_on_the_set_of_refs_not_on_their_order(
    uris: list[str], size: int, random: object
) -> None:
    refs = [ref(uri) for uri in uris]
    shuffled = list(refs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cut_chunks(refs, size) == cut_chunks(shuffled, size)


def test_chunks_of_a_shard_are_even() -> None:
    sizes = [len(chunk.refs) for chunk in cut_chunks([ref(f"u{n:03}") for n in range(11)], 5)]
    assert sorted(sizes) == [3, 4, 4]


@given(st.lists(st.integers(0, 10**9), unique=True, max_size=400), st.integers(1, 300))
def test_the_opening_is_a_small_chunk_in_front_of_a_large_one(numbers: list[int], size: int) -> None:
    refs = [ref(f"u{number}") for number in numbers]
    chunks = cut_chunks(refs, size, opens=True)
    assert [image for chunk in chunks for image in chunk.refs] == sorted(refs, key=lambda image: image.key)
    if min(len(refs), size) <= 128:
        assert chunks == cut_chunks(refs, size)
    else:
        lengths = [len(chunk.refs) for chunk in chunks[1:]]
        assert len(chunks[0].refs) == 32
        assert max(lengths) <= size
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("total", "shards"),
    [(0, 1), (1, 1), (256, 1), (257, 2), (513, 3), (744, 3), (745, 4), (1025, 6), (1489, 8), (2049, 12)],
)
def test_shards_are_the_number_without_other_factors_than_2_and_one_3_that_the_count_asks_for(
    total: int, shards: int
) -> None:
    assert shard_count(total, 256) == shards


@given(st.integers(1, 10**9), st.integers(1, 5000))
def test_shards_are_no_more_than_they_must_be_with_the_next_smaller_number(total: int, most: int) -> None:
    shards = shard_count(total, most)
    factor = 3 if shards % 3 == 0 else 1
    assert (shards // factor).bit_count() == 1
    assert total <= shards * most
    smaller = shards // 3 * 2 if factor == 3 else shards // 4 * 3
    brim = 0 if factor == 3 else isqrt(most) // 2
    assert shards <= 2 or total > smaller * (most - brim)


def test_full_shards_are_not_so_full_that_half_of_them_are_cut_in_two() -> None:
    assert shard_count(10**8, 256) == 2**19
    assert shard_count(10**8, 2048) == 2**16


@pytest.mark.parametrize(
    ("total", "chunk_size", "shards"),
    [(256, 256, 1), (1_000, 256, 4), (100_000, 256, 512), (2_000, 2048, 8), (10_000, 2048, 8), (100, 8, 16)],
)
def test_a_small_job_with_a_large_chunk_size_has_eight_chunks_or_those_of_256(
    total: int, chunk_size: int, shards: int
) -> None:
    first_day = 739_000 if shards > 1 else 0
    assert plan_spans({739_000: total}, chunk_size) == {739_000: Span(first_day, shards, opens=True)}


@pytest.mark.parametrize("total", [300, 500, 1_000, 2_000, 5_000, 10_000, 50_000])
def test_a_small_job_has_about_as_few_chunks_for_an_image_as_a_large_one(total: int) -> None:
    refs = [ref(f"photos/{number:06}.jpg") for number in range(total)]
    shards = by_shard(refs, plan_spans(dict(count_days(refs)), 256))
    chunks = sum(len(cut_chunks(found, 256, opens=shard[1])) for shard, found in shards)
    assert total / 256 <= chunks <= 2 + total / 256 * 1.5


_counts = st.dictionaries(st.integers(1, 3_652_059), st.integers(1, 900), min_size=1, max_size=40)


@given(_counts, st.integers(128, 256))
def test_days_share_a_chunk_only_where_they_fill_no_more_than_one(counts: dict[int, int], size: int) -> None:
    plan = plan_spans(counts, size)
    assert plan.keys() == counts.keys()
    spans: dict[int, list[int]] = {}
    for day, span in plan.items():
        spans.setdefault(span.first_day, []).append(day)
    for days in spans.values():
        total = sum(counts[day] for day in days)
        (shards,) = {plan[day].shards for day in days}
        assert len(days) == 1 or (total <= size and shards == 1)


@given(_counts)
def test_the_span_of_the_earliest_day_opens_the_job_and_no_other(counts: dict[int, int]) -> None:
    plan = plan_spans(counts, 256)
    opening = plan[min(counts)]
    assert all(span.opens == (span == opening) for span in plan.values())


def test_a_year_of_photographs_makes_as_many_files_as_days_or_chunks_not_their_product() -> None:
    counts = {739_000 + day: 50 for day in range(365)}
    plan = plan_spans(counts, 256)
    assert len(set(plan.values())) == 91  # four days a chunk, in blocks that begin at multiples of four


def test_more_images_of_one_day_leave_the_chunks_of_other_days_alone() -> None:
    counts = {739_000 + day: 50 for day in range(365)}
    before, after = (plan_spans(known, 256) for known in (counts, counts | {739_100: 500}))
    moved = {day for day in counts if before[day] != after[day]}
    assert moved <= {739_100, 739_101, 739_102, 739_103}


def test_the_day_of_a_ref_is_that_of_its_row() -> None:
    late = datetime(2026, 3, 1, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    assert event_day(ref("a", event_time=late)) == date(2026, 3, 2).toordinal()


def test_the_shard_of_a_uri_never_changes() -> None:
    # Written down: another value here would orphan the files of every earlier run.
    assert [shard_of(uri, 1024) for uri in ("a.jpg", "b.jpg", "ü.jpg")] == [905, 734, 489]


@given(st.text(max_size=20), st.integers(1, 100))
def test_a_shard_is_within_range(uri: str, shards: int) -> None:
    assert 0 <= shard_of(uri, shards) < shards


@given(_uris)
def test_parcels_give_their_refs_back_in_order_and_hold_32_at_most(uris: list[str]) -> None:
    refs = [ref(uri) for uri in uris]
    parcels = [refs_of(parcel) for parcel in in_parcels(refs)]
    assert [image for parcel in parcels for image in parcel] == refs
    assert [len(parcel) for parcel in parcels[:-1]] == [32] * (len(parcels) - 1)
    assert all(parcels)


def test_a_parcel_takes_less_than_half_of_the_room_that_its_refs_take_apart() -> None:
    refs = [ref(f"gs://bucket/users/2026/03/photo_{n:05}.jpg", image_generation=n**5) for n in range(1000)]
    assert len(parcel_of(refs)) * 2 < sum(len(parcel_of([image])) for image in refs)


@given(_uris)
def test_every_ref_is_in_the_shard_of_its_day_and_uri(uris: list[str]) -> None:
    refs = [ref(uri, event_time=NOW + timedelta(days=n % 3)) for n, uri in enumerate(uris)]
    first = NOW.toordinal()
    plan = {day: Span(day, 4, opens=day == first) for day, _ in count_days(refs)}
    shards = by_shard(refs, plan)
    assert sorted(image.key for _, found in shards for image in found) == sorted(r.key for r in refs)
    for ((day, part), opens), found in shards:
        assert all((event_day(r), shard_of(r.image_uri, 4)) == (day, part) for r in found)
        assert opens == ((day, part) == (first, 0))
    assert not any(opens for (_, opens), _ in shards[1:])


def test_refs_are_counted_by_day() -> None:
    today, tomorrow = NOW, NOW + timedelta(days=1)
    counts = dict(count_days([ref("a", event_time=t) for t in (today, tomorrow, today)]))
    assert counts == {NOW.toordinal(): 2, NOW.toordinal() + 1: 1}
