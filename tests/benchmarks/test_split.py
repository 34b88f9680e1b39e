from __future__ import annotations

import pytest
import torch

from tests.benchmarks.bare_scorer import Feeding, micro_batches
from tests.benchmarks.built import Built
from tests.benchmarks.devices import seconds_of
from tests.benchmarks.pictures import jpegs, read_photographs
from tests.benchmarks.split import PARTS, split_seconds

CPU = torch.device("cpu")


def test_the_parts_make_up_the_whole_and_leave_no_hooks() -> None:
    scorer = Built.of("tiny", CPU, torch.float32).scorer(None, 16)
    images = [scorer.prepare(data) for data in jpegs(read_photographs(None, 4), 112, 112)]
    batches = micro_batches(images, Feeding(2, 2048, 1, 4))
    scorer.predict(images)
    found: dict[str, float] = {}
    whole = seconds_of(lambda: found.update(split_seconds(scorer, batches)), CPU)
    assert tuple(found) == PARTS
    assert all(seconds > 0 for seconds in found.values())
    assert sum(found.values()) == pytest.approx(whole, rel=0.1)
    model = scorer.decoder.model.model
    for module in (model.visual, model.language_model):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
