from __future__ import annotations

import pytest
import torch

import model.packed_vision as packed_vision
from tests.benchmarks import split
from tests.benchmarks.bare_scorer import Feeding, micro_batches
from tests.benchmarks.built import Built
from tests.benchmarks.devices import seconds_of
from tests.benchmarks.pictures import jpegs, read_photographs
from tests.benchmarks.split import PARTS, split_seconds

CPU = torch.device("cpu")


def test_a_vision_tower_that_is_called_several_times_is_timed_from_the_first_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer = Built.of("tiny", CPU, torch.float32).scorer(None, 16)
    images = [scorer.prepare(data) for data in jpegs(read_photographs(None, 4), 112, 112)]
    scorer.predict(images)
    monkeypatch.setattr(packed_vision, "_CPU_BYTES", 1)
    calls = []
    hook = scorer.decoder.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    # A clock that only the vision tower moves.
    monkeypatch.setattr(split.time, "perf_counter", lambda: float(len(calls)))
    found = split_seconds(scorer, [images, images])
    hook.remove()
    assert len(calls) == 8
    assert found == {"transfer": 0.0, "vit": 8.0, "prefill": 0.0, "slots": 0.0, "read": 0.0}


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
