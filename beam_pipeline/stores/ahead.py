"""Work on items before their results are asked for: stores answer late, and many questions at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Generator[_Result, None, None]:
    """Like ``map``, by threads: in order, never more than so many results begun and not yet asked for.

    Whoever stops asking (an error does, too) waits for those that have begun.

    Args:
        function: Is called by several threads at once; what it raises is raised in its result's place.
        items: Taken as results are asked for.
        ahead: Results, and threads; 1 = by the caller's thread, each when it is asked for.
    """
    if ahead == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(ahead) as pool:
        begun: deque[Future[_Result]] = deque()
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) == ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
