from __future__ import annotations

import torch

from tests.benchmarks.spread import measure_spread
from tests.golden.company import MOST_SPREAD


def test_every_photograph_is_put_into_every_company() -> None:
    found = measure_spread("tiny", torch.device("cpu"), torch.float32, 16, None, 2, batches=[3])
    assert found["photographs"] == 2
    # Alone, beside nine neighbours first and last, and in three places of a batch.
    assert found["predictions_each"] == 1 + 18 + 3
    assert 0 < found["largest_delta"] <= MOST_SPREAD
    assert found["median_largest_delta"] <= found["largest_delta"] <= found["largest_spread"]
