"""Every thread that computes for a scorer takes denormal numbers for zero."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from model.denormals import flush_denormals
from model.scorer import Scorer
from tests.model.test_scorer import PHOTOGRAPHS


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def denormal_share(first: Callable[[], object]) -> float:
    """Share of denormal results of two threads that compute for a new one, which does something first."""
    found: list[float] = []

    def compute() -> None:
        torch.set_flush_denormal(False)  # what it inherits is not to count
        first()
        halves = torch.full((1_000_000,), 1e-39) * 0.5
        # By their bits: a comparison would take them for zero, too.
        found.append(float((halves.view(torch.int32) != 0).float().mean()))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    return found[0]


def test_flushing_reaches_the_threads_that_torch_starts_afterwards() -> None:
    assert denormal_share(lambda: None) == 1
    assert denormal_share(flush_denormals) == 0


def test_a_scorer_flushes_before_it_starts_any_thread() -> None:
    scorer = Scorer.load(device="cpu")
    prepared = [scorer.prepare(data) for data in PHOTOGRAPHS]
    assert denormal_share(lambda: scorer.predict(prepared)) == 0
