from __future__ import annotations

import math

import pytest
import torch

from model.scores import score_text
from model.tokens import IMAGE_PAD, TextEncoder
from schemas.manifest import ScoreScale
from tests.training.toy import toy_annotations, toy_config, toy_images
from training.curves import NCM, NCM_NAMES, NCM_STAR_PRINTED, NCM_STAR_RENORMALISED
from training.data import Collator
from training.demo.tokenizer import learn_tokenizer
from training.ncm import (
    NcmMeter,
    expected_digits,
    means,
    other_digits,
    score_of,
    squared_errors,
)
from training.stages import conversations

ENCODER = TextEncoder(learn_tokenizer())


def _log(probabilities: dict[int, float]) -> list[float]:
    return [math.log(probabilities[digit]) if digit in probabilities else -math.inf for digit in range(10)]


# Position 1: 3 or 4, alike; position 2: mostly 0, a little 5. Label 4.0.
LOGITS = torch.tensor([[_log({3: 0.5, 4: 0.5}), _log({0: 0.8, 5: 0.2})]])
DIGITS = torch.tensor([[4, 0]])
BY_HAND = {
    NCM: (3.5 + 0.1 * 1.0 - 4.0) ** 2,
    NCM_STAR_PRINTED: (1.5 + 0.1 * 1.0 - 4.0) ** 2,
    NCM_STAR_RENORMALISED: (3.0 + 0.1 * 5.0 - 4.0) ** 2,
}


def test_the_three_figures_are_those_worked_out_by_hand() -> None:
    found = squared_errors(LOGITS, DIGITS)
    assert dict(zip(NCM_NAMES, found[:, 0].tolist(), strict=True)) == pytest.approx(BY_HAND)


@pytest.mark.parametrize(("sure", "as_printed"), [(0.90, 0.40), (0.99, 0.04)])
def test_as_printed_what_is_left_vanishes_as_the_model_gets_surer_and_renormalised_it_does_not(
    sure: float, as_printed: float
) -> None:
    logits = torch.tensor(_log(dict.fromkeys(range(9), (1 - sure) / 9) | {9: sure}))
    true = torch.tensor(9)
    assert float(other_digits(logits, true, renormalised=False)) == pytest.approx(as_printed)
    assert float(other_digits(logits, true, renormalised=True)) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("digits", "written", "score"), [(2, "4.0", 4.0), (3, "3.98", 3.98), (5, "3.9845", 3.9845)]
)
def test_the_true_score_is_the_label_as_its_digits_say_it(digits: int, written: str, score: float) -> None:
    text = score_text(3.9845, ScoreScale(digits=digits))
    assert text == written
    assert float(score_of(torch.tensor([int(c) for c in text if c != "."]))) == pytest.approx(score)


def test_only_digits_count_and_only_by_their_own_softmax() -> None:
    assert float(expected_digits(torch.zeros(10))) == pytest.approx(4.5)
    moved = LOGITS + 7.0
    assert torch.allclose(squared_errors(moved, DIGITS), squared_errors(LOGITS, DIGITS))


def test_a_digit_that_a_trimmed_score_lacks_counts_on_neither_side() -> None:
    longer = torch.cat([LOGITS, torch.randn(1, 1, 10)], dim=1)
    found = squared_errors(longer, torch.tensor([[4, 0, -1]]))
    assert torch.allclose(found, squared_errors(LOGITS, DIGITS))


def _at(columns: list[int]) -> torch.Tensor:
    return torch.tensor(columns)


def test_the_meter_means_over_all_scores_of_all_batches_and_starts_again() -> None:
    meter = NcmMeter(range(20, 30), digits=2)
    logits, labels = torch.zeros(2, 4, 40), torch.zeros(2, 4, dtype=torch.long)
    logits[1, [1, 3], 20:30] = LOGITS[0]
    logits[1, :, :20] = 50.0  # other tokens do not count, however likely
    labels[1, 1:] = torch.tensor([24, 19, 20])
    meter.add(logits, labels, _at([-1, 1]))
    meter.add(logits, labels, _at([-1, -1]))
    totals = meter.take_totals()
    assert means(totals) == pytest.approx(BY_HAND)
    assert means(totals + totals) == pytest.approx(BY_HAND)  # of two processes
    assert means(meter.take_totals()) == {}


@pytest.mark.parametrize("scale", [ScoreScale(digits=2), ScoreScale(digits=4, trimmed=True)])
def test_in_real_batches_it_finds_the_digits_of_every_score_free_text_before_it_or_not(
    scale: ScoreScale, monkeypatch
) -> None:
    config = toy_config("stage2", score=scale, batch_size=6)
    annotations = toy_annotations(6)
    mos = [6.2, 7.0, 3.9845, 9.99, 0.0, 5.55]
    labels = [label.model_copy(update={"mos": value}) for label, value in zip(annotations, mos, strict=True)]
    images = toy_images(annotations=labels)
    batch = Collator(0, ENCODER.special(IMAGE_PAD), 1.0)(list(conversations(config, ENCODER, images))[:6])
    seen: list[list[int]] = []
    monkeypatch.setattr(
        "training.ncm.squared_errors",
        lambda logits, digits: seen.extend(digits.tolist()) or torch.zeros(3, len(digits)),
    )
    meter = NcmMeter([ENCODER.encode(str(digit))[0] for digit in range(10)], scale.digits)
    meter.add(torch.zeros(*batch["labels"].shape, 2000), batch["labels"], batch["score_columns"])
    spelt = sorted("".join(str(digit) for digit in digits if digit >= 0) for digits in seen)
    assert spelt == sorted(score_text(value, scale).replace(".", "") for value in mos)
