"""RealQA's NCM and NCM*: how well a score written in digits is known as a number, while training watches.

    E[S]  = Σᵢ wᵢ · Σ_v v · pᵢ(v)          pᵢ: softmax over the ten digits at position i, w = 1, 0.1, 0.01, …
    NCM   = mean (E[S] − S)²               S: the score as its digits say it
    NCM*  = the same without the true digit: the sum over v leaves out v = gᵢ

Every position sees the true digits before it (teacher forcing). NCM* asks whether the digits *beside* the
true one are near it in value. As printed (arXiv 2503.06141) its denominator keeps the true digit: what is
left sums up to 1 − p(g), so E* falls to nothing as the model gets surer, whatever the other digits are:
0.40 at p = .90 and 0.04 at .99 where the true digit is 9 and the others are alike. Renormalised, what is left
sums up to 1 again. Both are told apart by name everywhere. All are monitors and no part of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.curves import NCM_NAMES

_NO_DIGIT = -1


def expected_digits(logits: torch.Tensor) -> torch.Tensor:
    """Σ v · p(v) at every position.

    Args:
        logits: (..., 10), of the digits 0 to 9.

    Returns:
        (...) in double, 0 to 9.
    """
    return logits.double().softmax(-1) @ _values(logits)


def other_digits(logits: torch.Tensor, digits: torch.Tensor, *, renormalised: bool) -> torch.Tensor:
    """Σ v · p(v) at every position over the digits that are not the true one.

    Args:
        logits: (..., 10), of the digits 0 to 9.
        digits: (...) true digits.
        renormalised: Whether the probabilities of the others are scaled to sum up to 1; else as printed.

    Returns:
        (...) in double, 0 to 9.
    """
    true = torch.nn.functional.one_hot(digits, 10).bool()
    if renormalised:
        return expected_digits(logits.masked_fill(true, float("-inf")))
    return logits.double().softmax(-1).masked_fill(true, 0.0) @ _values(logits)


def score_of(digits: torch.Tensor) -> torch.Tensor:
    """Σ wᵢ · digit of (..., M) digits, expected ones too; (...) in double, in [0, 10)."""
    weights = 10.0 ** -torch.arange(digits.shape[-1], dtype=torch.float64, device=digits.device)
    return digits.double() @ weights


def squared_errors(logits: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """Squared errors whose means are the three figures.

    Args:
        logits: (batch, M, 10), of the digits 0 to 9 at the positions of a score's digits.
        digits: (batch, M) true digits; negative where a trimmed score has none: such a position counts
            neither in the score nor in what is expected.

    Returns:
        (3, batch) in double: NCM, NCM* as printed, NCM* renormalised.
    """
    written = digits >= 0
    true = digits.clamp_min(0)
    expected = torch.stack(
        [
            expected_digits(logits),
            other_digits(logits, true, renormalised=False),
            other_digits(logits, true, renormalised=True),
        ]
    )
    return (score_of(expected * written) - score_of(true)) ** 2


class NcmMeter:
    """Adds up squared errors over batches; nothing waits for the device until the totals are read.

    Args:
        digit_ids: Token ids of the digits 0 to 9.
        digits: M, integer digit counted.
    """

    def __init__(self, digit_ids: Sequence[int], digits: int) -> None:
        self._digit_ids = torch.tensor(digit_ids)
        # From the score's first token; at 1 stands the point.
        self._offsets = torch.tensor([0, *range(2, digits + 1)])
        self._totals = torch.zeros(len(NCM_NAMES) + 1, dtype=torch.float64)

    @torch.no_grad()
    def add(self, logits: torch.Tensor, labels: torch.Tensor, columns: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (batch, answer, vocabulary) that predict ``labels``.
            labels: (batch, answer) target tokens.
            columns: (batch,) column of the score's first token, -1 where an answer has no score.
        """
        self._to(logits.device)
        places = (columns[:, None] + self._offsets).clamp(0, labels.shape[1] - 1)
        matches = labels.gather(1, places)[..., None] == self._digit_ids
        # A trimmed score ends early: what follows it is no digit.
        written = matches.any(-1).cumprod(1).bool() & (columns >= 0)[:, None]
        rows = torch.arange(len(places), device=logits.device)
        found = logits[rows[:, None, None], places[..., None], self._digit_ids]
        errors = squared_errors(found, matches.int().argmax(-1).masked_fill(~written, _NO_DIGIT))
        scored = written.any(1)
        self._totals += torch.cat([(errors * scored).sum(1), scored.sum()[None].double()])

    def _to(self, device: torch.device) -> None:
        self._digit_ids, self._offsets = self._digit_ids.to(device), self._offsets.to(device)
        self._totals = self._totals.to(device)

    def take_totals(self) -> torch.Tensor:
        """Sums of the three squared errors, and the number of scores, (4,) in double; starts from nothing."""
        totals = self._totals
        self._totals = torch.zeros_like(totals)
        return totals


def means(totals: torch.Tensor) -> dict[str, float]:
    """The three figures by name, from totals (of all processes); nothing where no score was seen."""
    *sums, count = totals.tolist()
    return {name: total / count for name, total in zip(NCM_NAMES, sums, strict=True)} if count else {}


def _values(logits: torch.Tensor) -> torch.Tensor:
    return torch.arange(10, dtype=torch.float64, device=logits.device)
