from __future__ import annotations

import threading

import pytest

from beam_pipeline.stores.ahead import map_ahead


@pytest.mark.parametrize("ahead", [1, 2, 7, 100])
def test_results_come_in_the_order_of_their_items(ahead: int) -> None:
    assert list(map_ahead(lambda number: number * number, range(50), ahead)) == [n * n for n in range(50)]
    assert list(map_ahead(str, [], ahead)) == []


def test_so_many_are_worked_on_at_once() -> None:
    all_here = threading.Barrier(4, timeout=30)
    places = list(map_ahead(lambda _: all_here.wait(), range(8), 4))
    assert sorted(places) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_no_more_is_begun_than_may_be_ahead() -> None:
    begun: list[int] = []
    results = map_ahead(begun.append, range(100), 3)
    for _ in range(5):
        next(results)
    results.close()
    assert len(begun) <= 5 + 2


@pytest.mark.parametrize("ahead", [1, 3])
def test_an_error_is_raised_in_its_results_place_and_nothing_more_is_begun(ahead: int) -> None:
    begun: list[int] = []

    def half(number: int) -> float:
        begun.append(number)
        return 1 / (number - 4)

    results = map_ahead(half, range(100), ahead)
    assert [next(results) for _ in range(4)] == [1 / (number - 4) for number in range(4)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert max(begun) < 4 + ahead


def test_alone_it_is_the_callers_thread_that_works() -> None:
    assert set(map_ahead(lambda _: threading.current_thread(), range(3), 1)) == {threading.current_thread()}
