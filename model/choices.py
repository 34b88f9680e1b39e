"""What a row decides, from the logits behind its columns. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from model.layout import StepLayout


@dataclass(frozen=True)
class TrieChoice:
    """One decision of every row.

    Attributes:
        value: (batch,) decided values.
        log_probabilities: (batch, values), over the allowed tokens.
        mass: (batch,) least probability, over the whole vocabulary, that the allowed tokens had together at a
            branching node on the way.
    """

    value: torch.Tensor
    log_probabilities: torch.Tensor
    mass: torch.Tensor


def decide_trie(logits: torch.Tensor, layout: StepLayout) -> TrieChoice:
    """Decide a trie greedily, as the model would write: the best token at every branching node.

    The value with the highest product may be another where nodes nest ("slightly" .55, split evenly,
    against "overexposed" .44); the answer then goes on from what would have been written.

    Args:
        logits: (batch, branches, vocabulary) float32 behind every branching node, the root's first.
        layout: Of the step.
    """
    edges = logits[:, layout.edge_branch, layout.edge_token]
    # All nodes at once, each with as many edges as the widest has: those that it lacks are impossible.
    choices = pad(edges, (0, 1), value=float("-inf"))[:, layout.branch_edges]
    log_choices = choices.log_softmax(2)
    best = torch.zeros_like(choices).scatter_(2, choices.argmax(2, keepdim=True), 1.0)
    taken = best.flatten(1)[:, layout.edge_place] @ layout.edge_table.T
    value = (taken == layout.edge_table.sum(1)).float().argmax(1)
    masses = (_log_sum(choices, log_choices) - log_sum(logits)).exp()
    return TrieChoice(
        value,
        log_choices.flatten(1)[:, layout.edge_place] @ layout.edge_table.T,
        masses.where(layout.branch_table[value], 1.0).amin(1),
    )


def digit_probabilities(logits: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
    """Probabilities of ten digits, (batch, 10); an eleventh choice, the end, counts as digit 0.

    Args:
        logits: (batch, 10 or 11) of the digits, and of the terminator where the score may end here.
        ended: (batch,) whether the score ended before this digit: then it is 0.
    """
    probabilities = logits.softmax(1)
    found = probabilities[:, :10].clone()
    found[:, 0] += probabilities[:, 10:].sum(1)
    zero = torch.zeros_like(found[0])
    zero[:1].fill_(1.0)
    return torch.where(ended[:, None], zero, found)


def log_sum(logits: torch.Tensor) -> torch.Tensor:
    """``logsumexp`` of the last dimension, in three operations instead of a dozen."""
    return _log_sum(logits, logits.log_softmax(-1))


def _log_sum(logits: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    # Softmax takes the same from every logit. The largest is never infinite, and is rounded least.
    return logits.amax(-1) - normalised.amax(-1)
