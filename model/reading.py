"""From decisions to predictions: what the slots of a batch say, as typed records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from model.decisions import (
    ChoiceDecision,
    DecimalDecision,
    Decision,
    Decisions,
    ReadoutDecision,
    TextDecision,
)
from model.scores import class_values, composite_score, highest_score, to_native_scale
from model.slots import SlotProgram
from model.templates import PROSE, SCORE
from model.tokens import TextEncoder
from schemas.attributes import Vocabulary
from schemas.errors import InferenceError
from schemas.manifest import DECODERS, AdapterManifest, Decoder, ScoreScale
from schemas.records import Prediction

_GREEDY_DECIMALS = 4
"""More than any score is written with; rounds off what binary fractions add."""


def digit_tree_moments(
    first: torch.Tensor, second: torch.Tensor, digits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chain-rule mean and standard deviation of a score.

    The first two digits are exact; what comes after is taken as uniform, so it adds its midpoint and its
    variance. Unlike an expectation position by position this holds at carries: a belief of 4.00 ± 0.1
    gives 4.00, not 3.60 (realqa.md, "Numeric scores as next tokens").

    Args:
        first: (batch, 10) probabilities of the first digit.
        second: (batch, 10, 10) probabilities of the second digit given the first.
        digits: M, integer digit counted.

    Returns:
        Mean and standard deviation, (batch,) each, of a score in [0, 10).
    """
    joint = first[:, :, None] * second
    steps = torch.arange(10, dtype=joint.dtype, device=joint.device)
    values = steps[:, None] + steps[None, :] / 10
    step = 10.0 ** (1 - digits)
    points = 10 ** (digits - 2)
    rest_mean = step * (points - 1) / 2
    rest_variance = step**2 * (points**2 - 1) / 12
    mean = (joint * values).sum((1, 2)) + rest_mean
    spread = values[None] + rest_mean - mean[:, None, None]
    variance = (joint * spread**2).sum((1, 2)) + rest_variance
    return mean, variance.sqrt()


def per_position_score(decision: DecimalDecision) -> torch.Tensor:
    """Expectation position by position: Σ weight · expected digit, given the greedy digits before it.

    RealQA's E[S], which is teacher-forced there, as a decoder: the digits before are those that greedy
    decoding writes. Wrong at carries, where the greedy first digit speaks for one side only.

    Returns:
        (batch,), double, in [0, 10).
    """
    steps = torch.arange(10, dtype=torch.float64, device=decision.first.device)
    chosen = decision.digits[:, 0, None, None].expand(-1, 1, 10)
    second = decision.second.gather(1, chosen)
    positions = torch.cat([decision.first[:, None], second, decision.later], dim=1).double()
    return positions @ steps @ 10.0 ** -steps[: positions.shape[1]]


def greedy_score(decision: DecimalDecision, digits: int) -> torch.Tensor:
    """The number that greedy decoding writes, (batch,), double, on the host; trimmed digits count as 0."""
    places = torch.tensor([10.0**-place for place in range(digits)], dtype=torch.float64)
    return (decision.digits.clamp_min(0).double().cpu() * places).sum(1)


def class_moments(probabilities: torch.Tensor, scale: ScoreScale) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over the classes of a head, (batch,) each, in points of 0–10.

    Args:
        probabilities: (batch, classes), lowest class first.
        scale: Says what the classes stand for.
    """
    values = torch.tensor(class_values(scale), dtype=probabilities.dtype, device=probabilities.device)
    mean = probabilities @ values
    variance = (probabilities * (values - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()


def class_probabilities(decision: ChoiceDecision | ReadoutDecision) -> torch.Tensor:
    """(batch, classes) of a score by levels or bins, double."""
    if isinstance(decision, ChoiceDecision):
        # Products over the nodes of a trie; where words branch again they sum up to 1 but for rounding.
        return decision.probabilities.double()
    return decision.outputs.double().softmax(1)


def read_score(decision: Decision, decoder: Decoder, scale: ScoreScale) -> torch.Tensor:
    """Read a score in one of its head's ways; all of them from the one decode.

    ``digit_tree``: chain-rule mean (``digit_tree_moments``). ``per_position``: ``per_position_score``.
    ``greedy``: the number as written. ``mean`` and ``mode``: over levels or bins. ``point``: the number that
    a head gives.

    Args:
        decision: Of a batch's score.
        decoder: Which way (``schemas.manifest.DECODERS``).
        scale: Of the adapter.

    Returns:
        (batch,), double, on the host, in [0, 10).
    """
    if isinstance(decision, DecimalDecision):
        if decoder not in DECODERS["digits"]:
            raise ValueError(f"decoder {decoder!r} does not read digits")
        if decoder == "greedy":
            return greedy_score(decision, scale.digits)
        if decoder == "per_position":
            return per_position_score(decision).cpu()
        return digit_tree_moments(decision.first.double(), decision.second.double(), scale.digits)[0].cpu()
    assert not isinstance(decision, TextDecision)
    if decoder == "point":
        assert isinstance(decision, ReadoutDecision)
        found = decision.outputs[:, 0].double() * 10
    elif decoder == "mode":
        found = _mode(decision, scale)
    else:
        found = class_moments(class_probabilities(decision), scale)[0]
    return found.clamp(0.0, highest_score(scale)).cpu()


def score_deviation(decision: Decision, scale: ScoreScale) -> torch.Tensor | None:
    """Standard deviation of a score's distribution, (batch,), double, on the host, whatever the decoder.

    About the distribution's mean, not about a greedy reading. None for heads that give one number.
    """
    if isinstance(decision, DecimalDecision):
        return digit_tree_moments(decision.first.double(), decision.second.double(), scale.digits)[1].cpu()
    assert not isinstance(decision, TextDecision)
    return None if scale.decoder == "point" else class_moments(class_probabilities(decision), scale)[1].cpu()


def likeliest_score(decision: Decision, scale: ScoreScale) -> torch.Tensor | None:
    """The score that would be written, or the most probable class, (batch,); None where there is neither."""
    if isinstance(decision, DecimalDecision):
        return greedy_score(decision, scale.digits)
    assert not isinstance(decision, TextDecision)
    if scale.decoder == "point":
        return None
    return _mode(decision, scale).clamp_max(highest_score(scale)).cpu()


def _mode(decision: ChoiceDecision | ReadoutDecision, scale: ScoreScale) -> torch.Tensor:
    values = torch.tensor(class_values(scale), dtype=torch.float64)
    chosen = decision.value if isinstance(decision, ChoiceDecision) else decision.outputs.argmax(1)
    return values[chosen.cpu()]


class PredictionReader:
    """Reads the decisions of one program as predictions.

    Args:
        program: The program that was decoded.
        manifest: Vocabulary, score scale and composite weights of the adapter.
        encoder: Its tokeniser, for free text.
    """

    def __init__(self, program: SlotProgram, manifest: AdapterManifest, encoder: TextEncoder) -> None:
        self.program = program
        self.manifest = manifest
        self.encoder = encoder

    def read(self, decisions: Decisions, contexts: Sequence[str | None]) -> list[Prediction]:
        """Give one prediction a row.

        Args:
            decisions: Of a batch; moved to the host here.
            contexts: What every row saw as context.

        Raises:
            InferenceError: A row holds a number that is not finite: broken weights, or too narrow a dtype.
        """
        if not bool(_finite(decisions).all()):
            bad = [row for row, fine in enumerate(_finite(decisions).tolist()) if not fine]
            raise InferenceError(f"the model gave numbers that are not finite, for rows {bad} of the batch")
        by_tokens = any(isinstance(one, (ChoiceDecision, DecimalDecision)) for one in decisions.slots)
        rows: list[dict[str, Any]] = [
            {"format_mass": mass if by_tokens else None, "context_used": context}
            for mass, context in zip(decisions.format_mass.tolist(), contexts, strict=True)
        ]
        for step, decision in zip(self.program.steps, decisions.slots, strict=True):
            if step.slot.name == SCORE:
                _read_score(rows, decision, self.manifest.score)
            elif isinstance(decision, ChoiceDecision):
                _read_choice(rows, step.slot.name, decision, self.manifest.vocabulary)
            elif isinstance(decision, TextDecision):
                self._read_text(rows, step.slot.name, decision)
        for row in rows:
            row["composite_score"] = self._composite(row)
        return [Prediction(**row) for row in rows]

    def score_readings(self, decisions: Decisions) -> dict[Decoder, list[float]]:
        """Give every row's score as each decoder reads it; nothing where the template asks for no score.

        Returns:
            Scores in [0, 10) by decoder, one a row; that of the manifest's decoder is column ``score``.
        """
        scale = self.manifest.score
        return {
            decoder: read_score(decision, decoder, scale).tolist()
            for step, decision in zip(self.program.steps, decisions.slots, strict=True)
            if step.slot.name == SCORE
            for decoder in DECODERS[scale.head]
        }

    def _read_text(self, rows: list[dict[str, Any]], name: str, decision: TextDecision) -> None:
        for row, ids in zip(rows, decision.ids.tolist(), strict=True):
            text = self.encoder.decode([token for token in ids if token >= 0]).strip()
            if name == PROSE or name.endswith("_reason"):
                if name != PROSE:
                    text = f"{self.manifest.vocabulary[name.removesuffix('_reason')].title}: {text}"
                row["reasons"] = "\n".join(filter(None, [row.get("reasons"), text]))
            else:
                row[name] = text

    def _composite(self, row: dict[str, Any]) -> float | None:
        weights = self.manifest.composite
        if weights is None:
            return None
        expected = {name: row.get(f"{name}_expected") for name in weights.weights}
        known = {name: value for name, value in expected.items() if value is not None}
        # A template that does not ask for every weighted attribute has no composite score.
        return composite_score(known, weights) if len(known) == len(expected) else None


def _finite(decisions: Decisions) -> torch.Tensor:
    """(batch,) whether all of a row's numbers are finite."""
    found = decisions.format_mass.isfinite()
    for decision in decisions.slots:
        if isinstance(decision, ChoiceDecision):
            found = found & decision.probabilities.isfinite().all(1)
        elif isinstance(decision, DecimalDecision):
            found = found & decision.second.isfinite().all(2).all(1) & decision.later.isfinite().all(2).all(1)
        elif isinstance(decision, ReadoutDecision):
            found = found & decision.outputs.isfinite().all(1)
    return found


def _read_choice(
    rows: list[dict[str, Any]], name: str, decision: ChoiceDecision, vocabulary: Vocabulary
) -> None:
    attribute = vocabulary[name]
    codes = torch.tensor(attribute.codes, dtype=torch.float32, device=decision.probabilities.device)
    expected = (decision.probabilities * codes).sum(1).tolist()
    confidence = decision.probabilities.gather(1, decision.value[:, None])[:, 0].tolist()
    for row, value, mean, sure in zip(rows, decision.value.tolist(), expected, confidence, strict=True):
        text = attribute.values[value]
        row[name] = int(text) if attribute.kind == "integer" else text
        row[f"{name}_expected"] = mean
        row[f"{name}_confidence"] = sure


def _read_score(rows: list[dict[str, Any]], decision: Decision, scale: ScoreScale) -> None:
    score = read_score(decision, scale.decoder, scale).tolist()
    deviation, greedy = score_deviation(decision, scale), likeliest_score(decision, scale)
    for index, row in enumerate(rows):
        row[SCORE] = score[index]
        row["score_std"] = None if deviation is None else deviation[index].item()
        row["score_greedy"] = None if greedy is None else round(greedy[index].item(), _GREEDY_DECIMALS)
        row["score_native"] = to_native_scale(score[index], scale)
