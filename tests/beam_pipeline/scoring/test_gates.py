from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from beam_pipeline.scoring import gates
from beam_pipeline.scoring.gates import ByteGate


class Held:
    """What threads hold now, counted by themselves."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.most = 0
        self.largest_company = 0
        self._lock = threading.Lock()

    def enter(self, size: int) -> None:
        with self._lock:
            self.sizes.append(size)
            self.most = max(self.most, sum(self.sizes))
            if len(self.sizes) > 1:
                self.largest_company = max(self.largest_company, sum(self.sizes))

    def leave(self, size: int) -> None:
        with self._lock:
            self.sizes.remove(size)


def _queued(gate: ByteGate, count: int) -> None:
    for _ in range(10_000):
        if len(gate._waiting) == count:
            return
        time.sleep(0.001)
    pytest.fail(f"{count} should wait")


def test_a_thousand_holds_of_any_size_all_get_through_and_are_never_together_above_the_limit() -> None:
    limit, held = 100, Held()
    gate = ByteGate(limit)
    chance = random.Random(1)
    sizes = [chance.choice([0, 1, 7, 30, 60, 99, 100, 250]) for _ in range(1000)]

    def work(size: int) -> int:
        with gate.hold(size):
            held.enter(size)
            time.sleep(0)
            held.leave(size)
        return size

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, sizes)) == sizes
    # Only who was alone held more.
    assert held.most == 250
    assert 60 < held.largest_company <= limit


def test_two_gates_held_one_inside_the_other_always_in_the_same_order_let_everybody_through() -> None:
    outer, inner, held = ByteGate(50), ByteGate(80), Held()
    chance = random.Random(2)
    sizes = [(chance.randint(0, 70), chance.randint(0, 120)) for _ in range(500)]

    def work(size: tuple[int, int]) -> None:
        with outer.hold(size[0]), inner.hold(size[1]):
            held.enter(size[1])
            time.sleep(0)
            held.leave(size[1])

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, sizes))
    assert not held.sizes
    assert held.largest_company <= 80


def test_whoever_asked_first_goes_first_however_much_it_wants() -> None:
    gate, order = ByteGate(10), list[int]()

    def work(size: int) -> None:
        with gate.hold(size):
            order.append(size)

    with gate.hold(4):
        threads = []
        # The small ones would fit beside the four at once, and keep the large one waiting for good.
        for size in (9, 1, 25, 2):
            threads.append(threading.Thread(target=work, args=(size,)))
            threads[-1].start()
            _queued(gate, len(threads))
        assert not order
    for thread in threads:
        thread.join()
    assert order == [9, 1, 25, 2] or order == [1, 9, 25, 2]  # nine and one fit together


def test_one_larger_than_the_limit_goes_alone() -> None:
    gate, entered = ByteGate(10), threading.Event()

    def work() -> None:
        with gate.hold(0):
            entered.set()

    with gate.hold(11):
        thread = threading.Thread(target=work)
        thread.start()
        _queued(gate, 1)
        assert not entered.is_set()
    thread.join()
    assert entered.is_set()


def test_an_exception_gives_back_what_was_held() -> None:
    gate = ByteGate(10)
    for _ in range(3):
        with pytest.raises(KeyError), gate.hold(10):
            raise KeyError
    with gate.hold(10):
        pass


@pytest.mark.parametrize("is_let_in_before", [True, False])
def test_who_is_interrupted_while_waiting_is_not_waited_for(
    is_let_in_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, others = ByteGate(10), ExitStack()

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if is_let_in_before:
                others.close()
            assert self.is_set() is is_let_in_before
            raise KeyboardInterrupt

    with others, monkeypatch.context() as patched:
        others.enter_context(gate.hold(10))
        patched.setattr(gates.threading, "Event", Interrupted)
        with pytest.raises(KeyboardInterrupt), gate.hold(5):
            pytest.fail("it was let in")
    # A gate that still counted it would let nobody in who wants all.
    with gate.hold(10):
        pass


def test_a_gate_that_lets_nothing_pass_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="lets nothing pass"):
        ByteGate(0)
