from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.sources.chunks import cut_chunks, shard_count, shard_of
from tests.beam_pipeline.helpers import ref

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


@pytest.mark.parametrize(
    ("total", "shards"), [(0, 1), (1, 1), (2048, 8), (2049, 16), (4096, 16), (4097, 32), (100_000, 512)]
)
def test_shards_are_the_power_of_two_that_the_count_asks_for(total: int, shards: int) -> None:
    assert shard_count(total, 256) == shards


@pytest.mark.parametrize(("total", "shards"), [(64, 1), (65, 2), (256, 4), (512, 8), (1024, 8)])
def test_a_small_job_has_smaller_chunks_so_that_its_first_rows_come_soon(total: int, shards: int) -> None:
    assert shard_count(total, 256) == shards


def test_a_chunk_size_below_that_is_kept() -> None:
    assert shard_count(100, 8) == 16


def test_the_shard_of_a_uri_never_changes() -> None:
    # Written down: another value here would orphan the files of every earlier run.
    assert [shard_of(uri, 1024) for uri in ("a.jpg", "b.jpg", "ü.jpg")] == [905, 734, 489]


@given(st.text(max_size=20), st.integers(1, 100))
def test_a_shard_is_within_range(uri: str, shards: int) -> None:
    assert 0 <= shard_of(uri, shards) < shards
