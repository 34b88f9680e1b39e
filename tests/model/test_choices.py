"""All branching nodes decided at once give what one node after the other gives."""

from __future__ import annotations

import pytest
import torch

from model.choices import decide_trie, log_sum
from model.layout import StepLayout, slot_trie
from model.slots import Trie
from tests.model.teacher import setup

LAYOUTS = [
    StepLayout(step.forced, step.slot, torch.device("cpu"))
    for step in setup().program.steps
    if slot_trie(step.slot) is not None
]


def walked(trie: Trie, logits: torch.Tensor) -> tuple[int, list[float], float]:
    """Value, log-probabilities of all values and least mass of one row, from node to node."""
    total = logits.logsumexp(1)
    allowed = {
        node: torch.stack([logits[k, trie.token[child]] for _, child in trie.children[node]])
        for k, node in enumerate(trie.branching)
    }
    masses = {
        node: float((allowed[node].logsumexp(0) - total[k]).exp()) for k, node in enumerate(trie.branching)
    }
    log_of_edge = {
        child: float(log)
        for node, found in allowed.items()
        for (_, child), log in zip(trie.children[node], found.log_softmax(0), strict=True)
    }
    best = {trie.children[node][int(found.argmax())][1] for node, found in allowed.items()}
    paths = [trie.path(value) for value in range(max(trie.leaf_value) + 1)]
    logs = [sum(log_of_edge.get(node, 0.0) for node in path) for path in paths]
    value = next(v for v, path in enumerate(paths) if all(n in best for n in path if n in log_of_edge))
    parents = {trie.parent[node] for node in paths[value] if node in log_of_edge}
    return value, logs, min(masses[node] for node in parents)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: type(layout.slot).__name__)
def test_all_nodes_at_once_decide_what_a_walk_from_node_to_node_does(layout: StepLayout) -> None:
    trie = slot_trie(layout.slot)
    assert trie is not None
    vocabulary = int(layout.edge_token.max()) + 20
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(16, len(trie.branching), vocabulary, generator=draw) * 3
    found = decide_trie(logits, layout)
    for row, numbers in enumerate(logits):
        value, logs, mass = walked(trie, numbers)
        assert int(found.value[row]) == value
        torch.testing.assert_close(found.log_probabilities[row], torch.tensor(logs), rtol=1e-5, atol=1e-4)
        assert float(found.mass[row]) == pytest.approx(mass, rel=1e-4)


def test_nodes_of_different_width_are_among_those_tested() -> None:
    assert any(len(set(layout.branch_sizes)) > 1 for layout in LAYOUTS)
    assert any(len(layout.branch_sizes) > 2 for layout in LAYOUTS)


def test_log_sum_is_logsumexp_for_large_numbers_and_impossible_tokens_too() -> None:
    logits = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(1)) * 30 + 1000
    logits[:, :, 7] = float("-inf")
    torch.testing.assert_close(log_sum(logits), logits.logsumexp(2))
