"""Stand-ins for a device that is far away, for tests on a CPU.

``NoLooking`` fails at what a GPU would make the host wait for; ``Tape`` records operations as a CUDA graph
does: fixed memory, nothing of Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LOOKS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "masked_scatter",
    "masked_scatter_",
    "unique_consecutive",
    "_unique2",
    "equal",
}


class NoLooking(TorchDispatchMode):
    """Fails where the host looks at numbers, where a mask is an index, and where tensors change device.

    Attributes:
        sent: Bytes of copies from the host to the meta device, each of which must have been let.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.sent: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in _LOOKS, f"{func} makes the host wait"
        if name in ("index", "index_put", "index_put_"):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, f"{func} by a mask makes the host wait"
        out = func(*args, **(kwargs or {}))
        self.seen += 1
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        there = {leaf.device.type for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)}
        if devices == {"cpu"} and there == {"meta"}:
            assert _waits_for_nobody(args, kwargs), f"{func} from the host waits for the device"
            self.sent.append(sum(leaf.nbytes for leaf in tree_leaves(out)))
        assert not (devices == {"meta"} and "cpu" in there), f"{func} to the host waits for the device"
        return out


def _waits_for_nobody(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bool:
    return bool((kwargs or {}).get("non_blocking")) or True in args[1:]


class Tape:
    """A ``Recorder``: keeps every operation with its tensors, and plays them again on the same memory."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self.forgotten = 0

    def record(self, work: Callable[[], None], restore: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        restore()
        reel = _Reel()
        with reel:
            work()

        def replay() -> None:
            self.replayed += 1
            reel.play()

        return replay

    def forget(self) -> None:
        self.forgotten += 1


class _Reel(NoLooking):
    """Operations in order; whatever looks at numbers fails, as it does while a graph is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def play(self) -> None:
        for func, args, kwargs, out in self.operations:
            for kept, found in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                # A view, or written in place: there it is already.
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != found.data_ptr():
                    kept.copy_(found)
