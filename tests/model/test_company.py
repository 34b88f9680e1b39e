"""The same photograph, the same answer: whatever shares its micro-batch, by the shipped adapter."""

from __future__ import annotations

import pytest

from model.scorer import Scorer
from tests.golden.company import MOST_SPREAD, Moved, measure, mixed_batch, neighbours
from tests.golden.photographs import photographs
from tests.golden.predicting import OTHER_TEMPLATE


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(device="cpu", dtype="float32")


def check(moved: Moved) -> None:
    assert moved.spread <= MOST_SPREAD, f"spread {moved.spread:.1e}"
    assert moved.changed == {}


def test_the_neighbours_differ_in_size_shape_and_context(scorer: Scorer) -> None:
    found = neighbours(scorer)
    assert len({image.pixels.shape for image in found.values()}) >= 4
    assert len({image.visual_tokens for image in found.values()}) >= 3
    if scorer.manifest.conversation.context_template:
        assert len({len(image.context.ids) for image in found.values()}) == 3


def test_no_size_of_batch_place_in_it_or_neighbour_moves_a_score_or_changes_a_value(scorer: Scorer) -> None:
    photograph = scorer.prepare(photographs()["flower"])
    check(measure(scorer, photograph, (2, 4, 8, 16, 32)))


def test_a_template_without_attributes_holds_its_score_too() -> None:
    scorer = Scorer.load(device="cpu", dtype="float32", template=OTHER_TEMPLATE)
    check(measure(scorer, scorer.prepare(photographs()["chelsea"]), (2, 8)))


def test_one_among_64_scores_as_alone(scorer: Scorer) -> None:
    photograph = scorer.prepare(photographs()["coffee"])
    (alone,) = scorer.predict([photograph])
    among = scorer.predict(mixed_batch(photograph, list(neighbours(scorer).values()), 64, 32))[32]
    check(Moved({"alone": alone, "batch 64, middle": among}))
