"""Decisions made by hand, and exactly the predictions they mean."""

from __future__ import annotations

import pytest
import torch

from model.compiling import compile_template
from model.decisions import ChoiceDecision, DecimalDecision, Decision, Decisions, TextDecision
from model.reading import PredictionReader, read_score
from model.slots import ChoiceSlot, DecimalSlot, SlotProgram
from model.templates import answer_template
from model.tokens import IM_END
from schemas.attributes import VOCABULARY
from schemas.errors import InferenceError
from schemas.manifest import DECODERS, AdapterManifest, Decoder, ScoreScale
from tests.model.small_adapters import manifest
from tests.model.small_tokeniser import small_encoder

# per attribute: the decided value of two rows, each with .7, the rest of .3 on the value before it (or after)
DECIDED = {
    "composition": (10, 1),
    "eye_catching": (7, 2),
    "subject_integrity": ("complete", "incomplete (mostly cut off or mostly obscured)"),
    "subject_clutter": ("uncluttered", "cluttered"),
    "background_clutter": ("moderately cluttered", "uncluttered"),
    "level_shot": ("taken straight", "not horizontal"),
    "image_clarity": ("clear", "slightly blurry"),
    "exposure": ("underexposed", "properly exposed"),
    "saturation": ("slightly undersaturated", "oversaturated"),
}
# expected code = .7 · code of the value + .3 · code of its neighbour in the table, worked out by hand
EXPECTED = {
    "composition": (9.7, 1.3),
    "eye_catching": (6.7, 1.7),
    "subject_integrity": (2.7, 1.3),
    "subject_clutter": (2.7, 1.3),
    "background_clutter": (1.7, 2.7),
    "level_shot": (1.7, 1.3),
    "image_clarity": (3.7, 2.7),
    "exposure": (1.0, 2.7),
    "saturation": (2.0, 1.0),
}


def program(scale: ScoreScale) -> SlotProgram:
    encoder = small_encoder()
    template = answer_template("score_form", VOCABULARY, scale)
    return compile_template(template, encoder, encoder.special(IM_END), "segments")


def decisions(made: SlotProgram, digits: list[list[int]]) -> Decisions:
    slots: list[Decision] = []
    for step in made.steps:
        if isinstance(step.slot, DecimalSlot):
            first = torch.zeros(2, 10)
            first[0, 6], first[0, 7], first[1, 3] = 0.5, 0.5, 1.0
            second = torch.zeros(2, 10, 10)
            second[:, :, 0] = 1.0
            second[0, 6] = torch.tensor([0.0] * 8 + [1.0, 0.0])
            later = torch.zeros(2, 1, 10)
            later[:, 0, 4] = later[:, 0, 8] = 0.5
            slots.append(DecimalDecision(torch.tensor(digits), first, second, later))
            continue
        assert isinstance(step.slot, ChoiceSlot)
        count = len(step.slot.values)
        value = torch.tensor([step.slot.values.index(str(v)) for v in DECIDED[step.slot.name]])
        other = torch.where(value > 0, value - 1, torch.ones_like(value))
        probabilities = torch.zeros(2, count)
        probabilities.scatter_(1, value[:, None], 0.7).scatter_(1, other[:, None], 0.3)
        slots.append(ChoiceDecision(value, probabilities))
    return Decisions(tuple(slots), torch.tensor([0.9, 0.25]))


def reader(scale: ScoreScale) -> PredictionReader:
    settings: AdapterManifest = manifest(score=scale, composite=None)
    return PredictionReader(program(scale), settings, small_encoder())


def test_every_column_is_exactly_what_was_decided() -> None:
    scale = ScoreScale(native_low=1, native_high=5)
    rows = reader(scale).read(decisions(program(scale), [[6, 8, 3], [3, 0, 9]]), ["a barn", None])
    for name, values in DECIDED.items():
        assert tuple(getattr(row, name) for row in rows) == values
        assert [getattr(row, f"{name}_expected") for row in rows] == pytest.approx(EXPECTED[name]), name
        assert [getattr(row, f"{name}_confidence") for row in rows] == pytest.approx((0.7, 0.7))
    # 6.8 and 7.0 with half each, later digits at their midpoint .045
    assert [row.score for row in rows] == pytest.approx((6.945, 3.045))
    assert [row.score_std for row in rows] == pytest.approx(((0.01 + 8.25e-4) ** 0.5, 8.25e-4**0.5), rel=1e-4)
    assert [row.score_greedy for row in rows] == pytest.approx((6.83, 3.09))
    assert [row.score_native for row in rows] == pytest.approx((1 + 0.4 * 6.945, 1 + 0.4 * 3.045))
    assert [row.format_mass for row in rows] == pytest.approx((0.9, 0.25))
    assert [row.context_used for row in rows] == ["a barn", None]
    assert {row.composite_score for row in rows} == {None}


def belief(written: list[int], later: list[float] | None = None) -> DecimalDecision:
    """A belief of 4.00 ± 0.1: half 3.9, half 4.1. Every other first digit would be followed by 0."""
    first = torch.zeros(1, 10)
    first[0, 3] = first[0, 4] = 0.5
    second = torch.zeros(1, 10, 10)
    second[0, :, 0] = 1
    second[0, 3], second[0, 4] = torch.eye(10)[9], torch.eye(10)[1]
    third = torch.zeros(1, 0, 10) if later is None else torch.tensor([[later]])
    return DecimalDecision(torch.tensor([written]), first, second, third)


@pytest.mark.parametrize(("decoder", "score"), [("digit_tree", 4.0), ("per_position", 3.6), ("greedy", 4.1)])
def test_only_the_digit_tree_is_right_at_carries(decoder: Decoder, score: float) -> None:
    """realqa.md, "Numeric scores as next tokens": with a greedy 4 before it the .9 of 3.9 vanishes."""
    assert read_score(belief([4, 1]), decoder, ScoreScale(digits=2)).tolist() == pytest.approx([score])


def test_per_position_takes_every_later_digit_behind_the_greedy_ones() -> None:
    later = [0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0]
    assert read_score(belief([4, 1, 6], later), "per_position", ScoreScale()).tolist() == pytest.approx(
        [3.65]
    )
    assert read_score(belief([3, 9, 6], later), "per_position", ScoreScale()).tolist() == pytest.approx(
        [4.45]
    )


@pytest.mark.parametrize("decoder", DECODERS["digits"])
def test_one_decode_gives_every_reading_and_the_column_is_that_of_the_manifest(decoder: Decoder) -> None:
    scale = ScoreScale(decoder=decoder)
    made = decisions(program(scale), [[6, 8, 3], [3, 0, 9]])
    readings = reader(scale).score_readings(made)
    rows = reader(scale).read(made, [None, None])
    assert readings["digit_tree"] == pytest.approx([6.945, 3.045])
    assert readings["per_position"] == pytest.approx([6.5 + 0.8 + 0.06, 3.06])
    assert readings["greedy"] == pytest.approx([6.83, 3.09])
    assert [row.score for row in rows] == readings[decoder]
    # Beside any reading: the deviation of the tree.
    assert [row.score_std for row in rows] == pytest.approx(((0.01 + 8.25e-4) ** 0.5, 8.25e-4**0.5), rel=1e-4)


def test_a_template_without_a_score_has_no_readings() -> None:
    encoder = small_encoder()
    made = compile_template(
        answer_template("attribute_exposure", VOCABULARY, ScoreScale()),
        encoder,
        encoder.special(IM_END),
        "segments",
    )
    one = ChoiceDecision(torch.tensor([0]), torch.full((1, 5), 0.2))
    found = PredictionReader(made, manifest(), encoder).score_readings(Decisions((one,), torch.ones(1)))
    assert found == {}


def test_a_trimmed_score_reads_its_missing_digits_as_nothing() -> None:
    scale = ScoreScale(trimmed=True)
    rows = reader(scale).read(decisions(program(scale), [[7, 0, -1], [9, 9, 9]]), [None, None])
    assert [row.score_greedy for row in rows] == [7.0, 9.99]


@pytest.mark.parametrize("where", ["mass", "choice", "score"])
def test_numbers_that_are_not_finite_are_a_failure_and_never_a_row(where: str) -> None:
    made = program(ScoreScale())
    broken = decisions(made, [[6, 8, 3], [3, 0, 9]])
    if where == "mass":
        broken.format_mass[1] = float("nan")
    for decision in broken.slots:
        if where == "choice" and isinstance(decision, ChoiceDecision):
            decision.probabilities[1] = float("nan")
        if where == "score" and isinstance(decision, DecimalDecision):
            decision.second[1, 3, 0] = float("inf")
    with pytest.raises(InferenceError, match=r"rows \[1\]"):
        reader(ScoreScale()).read(broken, [None, None])


def test_prose_and_reasons_and_words_go_where_they_belong() -> None:
    encoder = small_encoder()
    template = answer_template("level_high_reasons", VOCABULARY, ScoreScale())
    made = compile_template(template, encoder, encoder.special(IM_END), "segments")
    text = list(encoder.encode(" well framed"))
    written = TextDecision(torch.tensor([[*text, -1, -1]]))
    one = ChoiceDecision(torch.tensor([4]), torch.full((1, 10), 0.1))
    (row,) = PredictionReader(made, manifest(), encoder).read(
        Decisions((written, one, written, one), torch.ones(1)), [None]
    )
    assert row.reasons == "Composition Score: well framed\nEye-Catching Score: well framed"
    assert row.composition == row.eye_catching == 5
