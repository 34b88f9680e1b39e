"""What only a CUDA device can show: its kernels, its graphs, and that the host does not wait for it.

pytest -m gpu tests/model
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest
import torch

from model.decisions import Decisions
from model.decoding import SlotDecoder
from model.fast_paths import use_fast_paths
from model.graphs import CudaRecorder
from model.packed_vision import attend_by_size, attend_inside, embed_images, takes_packed
from model.ragged import ImageBatch
from model.scorer import Scorer
from tests.golden.photographs import photographs
from tests.model.teacher import Setup, random_images, setup
from tests.model.test_graphs import GRIDS, SETTINGS, batches
from tests.model.tiny import tiny_model

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


def on_device(images: ImageBatch) -> ImageBatch:
    return replace(images, patches=images.patches.to(DEVICE))


def made_there(dtype: torch.dtype = torch.float32, **settings: object) -> Setup:
    made = setup(**settings)
    use_fast_paths(made.model)
    made.model.to(DEVICE, dtype)
    return made


@contextmanager
def nobody_waits() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_close(found: Decisions, expected: Decisions, tolerance: float) -> None:
    assert torch.isfinite(found.format_mass).all()
    for one, other in zip(found.slots, expected.slots, strict=True):
        for part in fields(one):
            torch.testing.assert_close(
                getattr(one, part.name), getattr(other, part.name), rtol=0, atol=tolerance
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [16, 32, 80])
def test_the_kernel_for_packed_sequences_attends_as_the_loop_does(dtype: torch.dtype, width: int) -> None:
    lengths = (64, 64, 1024, 4, 256)
    ends = torch.tensor([0, 64, 128, 1152, 1156, 1412], dtype=torch.int32, device=DEVICE)
    states = torch.randn(1412, 3, 4, width, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    query, key, value = states.unbind(1)  # views with gaps, as the tower has them
    assert takes_packed(query)
    found = attend_inside(query, key, value, width**-0.5, lengths, ends)
    exact = attend_by_size(query.float(), key.float(), value.float(), width**-0.5, lengths)
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)


def test_the_tower_in_bf16_is_as_near_to_the_exact_one_as_transformers_own() -> None:
    exact_model = tiny_model().to(torch.bfloat16).float()
    images, grids = random_images(GRIDS), torch.tensor([[1, *grid] for grid in GRIDS])
    with torch.no_grad():
        exact = exact_model.model.visual(images.pixel_values(), grid_thw=grids).pooler_output
        model = tiny_model().to(DEVICE, torch.bfloat16)
        values = images.pixel_values().to(DEVICE, torch.bfloat16)
        theirs = model.model.visual(values, grid_thw=grids.to(DEVICE)).pooler_output.float().cpu()
        use_fast_paths(model)
        ours = embed_images(model.model.visual, images.patches.to(DEVICE), GRIDS).float().cpu()
    assert (ours - exact).norm() < 1.3 * (theirs - exact).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["ours", "trimmed", "mix", "direct"])
def test_the_host_waits_for_nothing_while_a_batch_is_decided(name: str, dtype: torch.dtype) -> None:
    made = made_there(dtype, **SETTINGS[name])
    decoder = SlotDecoder(made.model, made.prompt, made.program)
    images = on_device(random_images(GRIDS, contexts=[(7, 8), (), (), (), (9,)]))
    expected = decoder.decode(images)
    with nobody_waits():
        found = decoder.decode(images)
    check_close(found, expected, 1e-4 if dtype == torch.float32 else 0.05)


def test_the_host_waits_for_nothing_while_graphs_are_replayed() -> None:
    made = made_there()
    decoder = SlotDecoder(made.model, made.prompt, made.program, recorder=CudaRecorder(DEVICE))
    images = on_device(random_images(GRIDS))
    expected = decoder.decode(images)
    with nobody_waits():
        found = decoder.decode(images)
    check_close(found, expected, 1e-4)


def test_a_device_decides_as_the_host_does() -> None:
    made = setup()
    use_fast_paths(made.model)
    images = random_images(GRIDS)
    expected = SlotDecoder(made.model, made.prompt, made.program).decode(images)
    made.model.to(DEVICE)
    found = SlotDecoder(made.model, made.prompt, made.program).decode(on_device(images))
    torch.testing.assert_close(found.format_mass.cpu(), expected.format_mass, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["ours", "five digits", "mix", "reasons"])
def test_replayed_graphs_give_what_passes_computed_anew_give(name: str) -> None:
    made = made_there(**SETTINGS[name])
    plain = SlotDecoder(made.model, made.prompt, made.program)
    replaying = SlotDecoder(made.model, made.prompt, made.program, recorder=CudaRecorder(DEVICE))
    given = [on_device(images) for images in batches(made)]
    for images in (*given, *given):
        check_close(replaying.decode(images), plain.decode(images), 1e-4)


def test_graphs_go_on_with_weights_written_in_place() -> None:
    made = made_there()
    plain = SlotDecoder(made.model, made.prompt, made.program)
    replaying = SlotDecoder(made.model, made.prompt, made.program, recorder=CudaRecorder(DEVICE))
    images = on_device(random_images(GRIDS))
    before = replaying.decode(images)
    with torch.no_grad():
        made.model.lm_head.weight.mul_(0.5)
    found = replaying.decode(images)
    check_close(found, plain.decode(images), 1e-4)
    assert not torch.equal(found.format_mass, before.format_mass)


def test_a_scorer_with_graphs_scores_as_one_without() -> None:
    files = list(photographs().values())
    plain = Scorer.load(device="cuda", dtype="float32")
    replaying = Scorer.load(device="cuda", dtype="float32", cuda_graphs=True)
    for count in (1, 3, len(files), 3):
        for one, other in zip(replaying.score(files[:count]), plain.score(files[:count]), strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-3)


def test_from_pixels_to_decisions_the_host_waits_for_nothing() -> None:
    scorer = Scorer.load(device="cuda")
    prepared = [scorer.prepare(data) for data in photographs().values()]
    for _ in range(3):  # the prefix, and both page-locked buffers
        scorer.decide(prepared)
    with nobody_waits():
        scorer.decide(prepared)
