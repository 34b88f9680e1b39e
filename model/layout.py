"""Where every token of a pass stands: the static side of slot decoding, computed once a program.

A step is decided in **one** pass. Behind the step's forced tokens stand *speculative cells*: the trie nodes
from which something else could still branch ("1" before "10"; the ten first digits of a score, each with
its point). They depend only on what is already decided, so they need not wait for the root's decision;
a tree mask keeps them from seeing each other. Afterwards the cells on the decided path stay in the cache
as they are, the others are masked out for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from model.compiling import build_trie
from model.slots import ChoiceSlot, DecimalSlot, FreeTextSlot, ReadoutSlot, Slot, Trie


class StepLayout:
    """Columns of one step's pass: forced tokens, then speculative cells. Tensors live on one device.

    Args:
        forced: Tokens before the slot (for the first step with the question's closing before them).
        slot: The slot.
        device: Where tensors live.
    """

    def __init__(self, forced: Sequence[int], slot: Slot, device: torch.device) -> None:
        self.slot = slot
        self.device = device
        trie = slot_trie(slot)
        nodes = trie.speculative if trie else ()
        self.forced_count = len(forced)
        self.width = len(forced) + len(nodes)
        cell_of = {node: index for index, node in enumerate(nodes)}
        self.tokens = self._long([*forced, *[trie.token[node] for node in nodes]] if trie else forced)
        self.offsets = self._long([*range(len(forced)), *_depths(trie, nodes, len(forced))])
        self.within = torch.tensor(_within(trie, nodes, len(forced)), device=device)
        # Columns of the pass whose logits are needed: every branching node's, the root's first.
        self.columns = self._long([len(forced) - 1])
        self.branch_sizes: list[int] = []
        if trie is not None:
            self._tabulate(trie, cell_of)
        if isinstance(slot, DecimalSlot):
            # Tokens that a further digit may be; the last one may be the end.
            self.later_ids = self._long([*slot.digit_ids, *([slot.terminator] if slot.trimmed else [])])

    def _long(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=self.device)

    def _tabulate(self, trie: Trie, cell_of: dict[int, int]) -> None:
        count = self.forced_count
        self.columns = self._long([count - 1 if n == 0 else count + cell_of[n] for n in trie.branching])
        self.branch_sizes = [len(trie.children[node]) for node in trie.branching]
        edges = [(k, child) for k, node in enumerate(trie.branching) for _, child in trie.children[node]]
        # (edges,): which branching node an edge leaves, and the token on it
        self.edge_branch = self._long([branch for branch, _ in edges])
        self.edge_token = self._long([trie.token[child] for _, child in edges])
        widest, missing = max(self.branch_sizes), len(edges)
        ends = accumulate(self.branch_sizes)
        rows = [
            [*range(end - size, end), *[missing] * (widest - size)]
            for end, size in zip(ends, self.branch_sizes, strict=True)
        ]
        cells = [edge for row in rows for edge in row]
        # (branches, widest branch): the edges of a branching node; their number where it has no more
        self.branch_edges = self._long(cells).reshape(-1, widest)
        # (edges,): where an edge stands in it
        self.edge_place = self._long([place for place, edge in enumerate(cells) if edge != missing])
        paths = [trie.path(value) for value in range(max(trie.leaf_value) + 1)]
        on_path = [[float(child in path) for _, child in edges] for path in paths]
        fed = [[node for node in path if node in cell_of] for path in paths]
        tails = [trie.tokens(value)[len(fed[value]) :] for value in range(len(paths))]
        width = max(len(tail) for tail in tails)
        device = self.device
        # (values, edges): which decisions lead to a value
        self.edge_table = torch.tensor(on_path, device=device)
        # (values, branches): which branching nodes lie on a value's path
        self.branch_table = torch.tensor(
            [
                [
                    any(hit and edges[e][0] == k for e, hit in enumerate(row))
                    for k in range(len(trie.branching))
                ]
                for row in on_path
            ],
            device=device,
        )
        # (values, cells): which cells stay when a value is decided
        self.cell_table = torch.tensor(
            [[node in path for node in cell_of] for path in fed], dtype=torch.bool, device=device
        ).reshape(len(paths), len(cell_of))
        self.fed_count = self._long([len(path) for path in fed])
        self.tail_ids = self._long(
            [token for tail in tails for token in [*tail, *[0] * (width - len(tail))]]
        ).reshape(len(paths), width)
        self.tail_count = self._long([len(tail) for tail in tails])

    @property
    def tail_width(self) -> int:
        """Most tokens that a decided value leaves for the next pass."""
        if isinstance(self.slot, (FreeTextSlot, ReadoutSlot)):
            return 0
        return max(1, self.tail_ids.shape[1])

    @property
    def extra_passes(self) -> int:
        """Columns of the passes after the first: further digits, or words."""
        if isinstance(self.slot, FreeTextSlot):
            return self.slot.max_tokens
        if isinstance(self.slot, DecimalSlot):
            return self.slot.digits - 2
        return 0


def slot_trie(slot: Slot) -> Trie | None:
    """The trie that a slot's first pass decides: its labels, or the first two digits of a score."""
    if isinstance(slot, ChoiceSlot):
        return slot.trie
    if isinstance(slot, DecimalSlot):
        pairs = [(one, slot.point_id, two) for one in slot.digit_ids for two in slot.digit_ids]
        return build_trie(pairs, slot.terminator)
    return None


def _depths(trie: Trie | None, nodes: Sequence[int], forced: int) -> list[int]:
    if trie is None:
        return []
    depth = {0: forced - 1}
    for node in nodes:
        depth[node] = depth[trie.parent[node]] + 1
    return [depth[node] for node in nodes]


def _within(trie: Trie | None, nodes: Sequence[int], forced: int) -> list[list[bool]]:
    """Which column of a pass sees which: forced text causally, cells their ancestors and themselves."""
    width = forced + len(nodes)
    mask = [[column <= row for column in range(width)] for row in range(forced)]
    for row, node in enumerate(nodes):
        line = [column < forced for column in range(width)]
        while trie is not None and node > 0:
            line[forced + nodes.index(node)] = True
            node = trie.parent[node]
        mask.append(line)
        assert line[forced + row]
    return mask
