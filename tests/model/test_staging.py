"""Pictures reach the device unchanged, and no buffer is written again before its copy is done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.staging import HostBuffers, PixelStage

CPU = torch.device("cpu")


def pictures(seed: int, shapes: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def plain(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


class Copying:
    """A copy that is done once somebody waits for it."""

    def __init__(self) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


def test_on_a_cpu_pictures_stay_where_they_are() -> None:
    given = pictures(0, [(28, 56), (84, 28)])
    taken = PixelStage(CPU).send(given).take()
    for picture, tensor in zip(given, taken, strict=True):
        assert tensor.data_ptr() == picture.ctypes.data
        assert tensor.shape == picture.shape


def test_a_buffer_holds_the_pictures_behind_each_other_whatever_their_layout() -> None:
    given = [*pictures(1, [(28, 56), (84, 28)]), pictures(2, [(40, 60)])[0].transpose(1, 0, 2)[::2]]
    with HostBuffers(plain).packed(given) as packed:
        assert packed.memory.numpy().tobytes() == b"".join(picture.tobytes() for picture in given)


def test_a_buffer_is_written_again_only_when_its_copy_is_done() -> None:
    buffers, copies = HostBuffers(plain), [Copying() for _ in range(4)]
    addresses, waited = [], []
    for seed, copy in enumerate(copies):
        with buffers.packed(pictures(seed, [(28, 28)])) as packed:
            waited.append([each.waited for each in copies])
            addresses.append(packed.memory.data_ptr())
            packed.arrived = copy
    assert addresses[0] != addresses[1]
    assert addresses[:2] == addresses[2:]
    assert waited == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_a_buffer_grows_when_it_must_and_waits_for_its_copy_even_then() -> None:
    sizes: list[int] = []
    buffers, copy = HostBuffers(lambda size: sizes.append(size) or plain(size), count=1), Copying()  # type: ignore[func-returns-value]
    for shape in [(28, 28), (28, 28), (280, 28), (28, 28)]:
        with buffers.packed(pictures(0, [shape])) as packed:
            assert len(packed.memory) == shape[0] * shape[1] * 3
            packed.arrived = copy
    assert sizes == [4096, 32768]
    assert copy.waited == 3


def test_a_copy_that_could_not_begin_keeps_nobody_waiting() -> None:
    buffers = HostBuffers(plain, count=1)
    with pytest.raises(MemoryError), buffers.packed(pictures(0, [(28, 28)])):
        raise MemoryError
    with buffers.packed(pictures(1, [(28, 28)])) as packed:
        assert packed.memory.numpy().tobytes() == pictures(1, [(28, 28)])[0].tobytes()


@pytest.mark.gpu
def test_pictures_arrive_whole_while_the_device_is_busy() -> None:
    device = torch.device("cuda")
    stage, load = PixelStage(device), torch.randn(4096, 4096, device=device)
    batches = [pictures(seed, [(280, 280), (56, 28), (560, 28 * (seed + 1))]) for seed in range(12)]
    sums = []
    for batch in batches:
        sent = stage.send(batch)
        load = (load @ load).clamp(-1, 1)
        sums.append([picture.clone() for picture in sent.take()])
        del sent
    for batch, there in zip(batches, sums, strict=True):
        for picture, tensor in zip(batch, there, strict=True):
            assert tensor.device.type == "cuda"
            assert np.array_equal(tensor.cpu().numpy(), picture)


@pytest.mark.gpu
def test_sending_and_taking_do_not_wait_for_the_device() -> None:
    device = torch.device("cuda")
    stage, batch = PixelStage(device), pictures(0, [(560, 560)] * 8)
    stage.send(batch).take()  # page-locks the first buffer
    stage.send(batch).take()  # and the second
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        taken = stage.send(batch).take()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.array_equal(taken[-1].cpu().numpy(), batch[-1])
