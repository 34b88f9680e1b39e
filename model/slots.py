"""Slot programs: an answer template, compiled for one tokeniser (``model.compiling``).

A program is a list of steps, each some forced tokens and then one slot to decide. A choice is a trie of
continuations. A value that is a proper prefix of another ("1" and "10") ends in the *terminator*, the first
token of what follows; that token belongs to the next step and is not fed twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class Trie:
    """Continuations of a choice as a tree; node 0 is the root.

    Attributes:
        children: For every node its (token, child) pairs, in order of first value.
        parent: For every node its parent; -1 for the root.
        token: For every node the token on the edge into it; -1 for the root.
        leaf_value: For every node the value that ends there, or -1.
        ends: Nodes entered by the terminator: their token is not part of the value.
    """

    children: tuple[tuple[tuple[int, int], ...], ...]
    parent: tuple[int, ...]
    token: tuple[int, ...]
    leaf_value: tuple[int, ...]
    ends: frozenset[int]

    @cached_property
    def branching(self) -> tuple[int, ...]:
        """Nodes where something is decided, root first, parents before children."""
        return tuple(node for node, edges in enumerate(self.children) if len(edges) > 1)

    @cached_property
    def speculative(self) -> tuple[int, ...]:
        """Nodes to feed beside the root so that every branching node's distribution is known."""
        wanted: set[int] = set()
        for node in self.branching:
            while node > 0:
                wanted.add(node)
                node = self.parent[node]
        return tuple(sorted(wanted))

    def path(self, value: int) -> tuple[int, ...]:
        """Nodes from below the root to the leaf of a value, terminator node included."""
        node = self.leaf_value.index(value)
        nodes: list[int] = []
        while node > 0:
            nodes.append(node)
            node = self.parent[node]
        return tuple(reversed(nodes))

    def tokens(self, value: int) -> tuple[int, ...]:
        """The tokens of a value, without terminator."""
        return tuple(self.token[node] for node in self.path(value) if node not in self.ends)


@dataclass(frozen=True)
class ChoiceSlot:
    """A label or an integer. ``values`` are the plain texts, without leading space."""

    name: str
    values: tuple[str, ...]
    trie: Trie


@dataclass(frozen=True)
class DecimalSlot:
    """The score. ``terminator`` ends a trimmed score and is a branch from the second decimal on."""

    name: str
    digits: int
    trimmed: bool
    digit_ids: tuple[int, ...]
    point_id: int
    terminator: int


@dataclass(frozen=True)
class Ending:
    """Words that end a free text once they are written whole; they are no part of it.

    A token at a time cannot tell the comma of ", 1.2 Composition Score:" from any other comma.

    Attributes:
        text: The words, without blanks around them.
        token_texts: Text of every token by id.
    """

    text: str
    token_texts: Sequence[str] = field(repr=False, compare=False)

    def kept(self, ids: Sequence[int]) -> int | None:
        """Tokens before the ending and the blanks before it; None while it is not whole.

        A token that holds both words and a part of the ending ("),") is not kept.
        """
        texts = [self.token_texts[token] for token in ids]
        before, ending, _ = "".join(texts).partition(self.text)
        if not ending:
            return None
        return sum(end <= len(before.rstrip()) for end in accumulate(map(len, texts)))


@dataclass(frozen=True)
class FreeTextSlot:
    """Words, never holding ``banned``.

    End before any token of ``stops``, before ``ending`` (which counts while it is being written), or after
    ``max_tokens``.
    """

    name: str
    max_tokens: int
    stops: frozenset[int]
    banned: frozenset[int]
    ending: Ending | None = None


@dataclass(frozen=True)
class ReadoutSlot:
    """A score without tokens: read off the hidden state of the last forced token by a head of its own."""

    name: str


Slot = ChoiceSlot | DecimalSlot | FreeTextSlot | ReadoutSlot


@dataclass(frozen=True)
class Step:
    """Forced tokens (at least one), then a slot."""

    forced: tuple[int, ...]
    slot: Slot


@dataclass(frozen=True)
class SlotProgram:
    """A compiled template: steps, then what closes the answer (``<|im_end|>`` last)."""

    template: str
    steps: tuple[Step, ...]
    closing: tuple[int, ...]

    def slot(self, name: str) -> Slot:
        """The slot of a name; KeyError if there is none."""
        for step in self.steps:
            if step.slot.name == name:
                return step.slot
        raise KeyError(name)

    def answer_ids(
        self, values: Mapping[str, str], free: Mapping[str, Sequence[int]] | None = None
    ) -> list[int]:
        """Ids of a whole answer, closing included.

        Args:
            values: Text of every choice and decimal, by slot name.
            free: Ids of every free text, by slot name.
        """
        ids: list[int] = []
        for step in self.steps:
            ids += step.forced
            ids += slot_tokens(step.slot, values, free or {})
        return [*ids, *self.closing]

    def allowed_after(self, ids: Sequence[int]) -> tuple[int, ...] | None:
        """Tokens that may follow an answer's first ids; None = any (inside free text).

        This is the mask under which ``generate()`` must give the same answer as slot decoding.

        Raises:
            ValueError: ``ids`` are no beginning of an answer of this program.
        """
        position = 0
        for index, step in enumerate(self.steps):
            rest = ids[position:]
            forced = step.forced
            if len(rest) < len(forced):
                return _next_forced(forced, rest)
            if tuple(rest[: len(forced)]) != forced:
                raise ValueError(f"ids leave the forced text before slot {step.slot.name!r}")
            position += len(forced)
            follow = self.steps[index + 1].forced[0] if index + 1 < len(self.steps) else self.closing[0]
            used, allowed = walk_slot(step.slot, ids[position:], follow)
            if used is None:
                return allowed
            position += used
        return _next_forced(self.closing, ids[position:])


def slot_tokens(slot: Slot, values: Mapping[str, str], free: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Ids of one slot's value."""
    if isinstance(slot, ChoiceSlot):
        return slot.trie.tokens(slot.values.index(values[slot.name]))
    if isinstance(slot, DecimalSlot):
        return [slot.point_id if c == "." else slot.digit_ids[int(c)] for c in values[slot.name]]
    return () if isinstance(slot, ReadoutSlot) else free[slot.name]


def walk_slot(
    slot: Slot, ids: Sequence[int], follow: int
) -> tuple[int, None] | tuple[None, tuple[int, ...] | None]:
    """Follow ids through a slot.

    Args:
        slot: The slot.
        ids: What stands from the slot's first token on.
        follow: First token of what comes after the slot.

    Returns:
        (number of the slot's tokens, None) if the slot is complete, else (None, tokens allowed next);
        None for "any" in free text.
    """
    if isinstance(slot, ChoiceSlot):
        return _walk_trie(slot.trie, ids)
    if isinstance(slot, DecimalSlot):
        return _walk_decimal(slot, ids)
    if isinstance(slot, ReadoutSlot):
        return 0, None
    kept = slot.ending.kept(ids[: slot.max_tokens]) if slot.ending else None
    if kept is not None:
        return (kept, None)
    for used, token in enumerate(ids[: slot.max_tokens]):
        if token in slot.stops:
            # generate() has written a stopping token; what it forces next is the separator.
            return (used, None)
    return (slot.max_tokens, None) if len(ids) >= slot.max_tokens else (None, None)


def _walk_trie(trie: Trie, ids: Sequence[int]) -> tuple[int, None] | tuple[None, tuple[int, ...]]:
    node, used = 0, 0
    while True:
        edges = trie.children[node]
        if not edges:
            return used - (node in trie.ends), None
        if used == len(ids):
            return None, tuple(token for token, _ in edges)
        step = dict(edges).get(ids[used])
        if step is None:
            raise ValueError(f"token {ids[used]} is no branch of the choice")
        node, used = step, used + 1


def _walk_decimal(slot: DecimalSlot, ids: Sequence[int]) -> tuple[int, None] | tuple[None, tuple[int, ...]]:
    length = slot.digits + 1
    for position in range(length):
        if position == 1:
            allowed: tuple[int, ...] = (slot.point_id,)
        elif slot.trimmed and position >= 3:
            allowed = (*slot.digit_ids, slot.terminator)
        else:
            allowed = slot.digit_ids
        if position == len(ids):
            return None, allowed
        if ids[position] not in allowed:
            raise ValueError(f"token {ids[position]} is no branch of the decimal")
        if ids[position] == slot.terminator and slot.trimmed and position >= 3:
            return position, None
    return length, None


def _next_forced(forced: tuple[int, ...], rest: Sequence[int]) -> tuple[int, ...]:
    if tuple(rest) != forced[: len(rest)] or len(rest) >= len(forced):
        raise ValueError("ids leave the forced text")
    return (forced[len(rest)],)
