"""FP8 layers compute what their 8-bit numbers say, only the language tower has them, nobody falls back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from model.fp8 import (
    FORMAT,
    Fp8Linear,
    _probe_problem,
    fp8_product,
    kernel_product,
    quantised,
    reference_product,
    use_fp8,
)
from model.scorer import Scorer
from schemas.errors import ConfigurationError
from tests.model.artefact import Artefact, write_artefact
from tests.model.teacher import setup
from tests.model.test_scorer import PHOTOGRAPHS, numbers

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


def random_rows(count: int = 5, wide: int = 64) -> torch.Tensor:
    return torch.randn(count, wide, generator=torch.Generator().manual_seed(1))


def test_rounding_keeps_every_number_to_four_bits_of_its_row() -> None:
    rows = random_rows() * torch.tensor([[1e-6], [1e-3], [1.0], [1e3], [1e6]])
    found, scales = quantised(rows)
    assert found.dtype == FORMAT
    back = found.float() * scales
    largest = rows.abs().amax(1, keepdim=True)
    # Half of the last of three bits behind the point; below 2^-6 of FP8's own range the steps are equal.
    allowed = torch.maximum(rows.abs() * 2**-4, largest / 448 * 2**-10)
    assert ((back - rows).abs() <= allowed * 1.001).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_row_of_zeros_and_the_largest_numbers_stay_finite(dtype: torch.dtype) -> None:
    rows = torch.zeros(3, 16, dtype=dtype)
    rows[1] = torch.finfo(dtype).max
    rows[2] = torch.finfo(dtype).smallest_normal
    found, scales = quantised(rows)
    back = found.float() * scales
    assert back.isfinite().all()
    assert (back[0] == 0).all()
    torch.testing.assert_close(back[1], rows[1].float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_the_kernel_multiplies_as_the_reference(rows: int) -> None:
    given = (*quantised(random_rows(rows)), *quantised(random_rows(48)), torch.bfloat16)
    # Torch has it on CPUs, too; it is the same call.
    torch.testing.assert_close(kernel_product(*given), reference_product(*given), rtol=0.01, atol=0.01)


def test_a_layer_is_as_near_to_the_full_one_as_eight_bits_allow() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 48)
    inputs = torch.randn(2, 5, 256)
    full, found = linear(inputs), Fp8Linear(linear, reference_product)(inputs)
    assert found.shape == full.shape
    error = (found - full).norm() / (full - linear.bias).norm()
    assert 0.001 < error < 0.06


def test_a_row_of_the_output_does_not_depend_on_the_other_rows() -> None:
    layer = Fp8Linear(nn.Linear(64, 32), reference_product)
    rows = random_rows() * torch.logspace(-2, 2, 5)[:, None]
    together = layer(rows)
    for alone, among in zip(rows, together, strict=True):
        torch.testing.assert_close(layer(alone[None])[0], among)


def test_only_the_language_towers_layers_change() -> None:
    model = setup().model
    before = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    use_fp8(model, reference_product)
    after = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    changed = {name for name, module in model.named_modules() if isinstance(module, Fp8Linear)}
    assert changed == {name for name in before if name.startswith("model.language_model.")}
    assert changed
    assert after == before - changed
    assert "lm_head" in after


def test_a_shape_that_kernels_do_not_take_is_refused_and_nothing_is_changed() -> None:
    model = setup().model
    layers = model.model.language_model.layers
    layers[1].mlp.up_proj = nn.Linear(24, 36)
    layers[0].mlp.up_proj = nn.Linear(32, 36)
    with pytest.raises(ConfigurationError) as caught:
        use_fp8(model, reference_product)
    assert [reason.split(" is ")[0] for reason in caught.value.reasons] == [
        "fp8: layers.0.mlp.up_proj",
        "fp8: layers.1.mlp.up_proj",
    ]
    assert not any(isinstance(module, Fp8Linear) for module in model.modules())


def test_a_device_without_fp8_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fp8: needs a CUDA device, and this is cpu"):
        Scorer.load(tmp_path / "no such adapter", device="cpu", fp8=True)


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        ((8, 0), torch.bfloat16, "has 8.0"),
        ((9, 0), torch.float16, "needs bfloat16 for all else, not float16"),
    ],
)
def test_an_older_gpu_and_another_format_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(ConfigurationError, match=said):
        fp8_product(torch.device("cuda"), dtype)


def test_a_kernel_that_is_missing_or_wrong_is_found_by_trying_it() -> None:
    def missing(*_: object) -> torch.Tensor:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nmore")

    def wrong(*given: object) -> torch.Tensor:
        return reference_product(*given) * 1.1  # type: ignore[arg-type]

    def not_a_number(*given: object) -> torch.Tensor:
        return reference_product(*given) * float("nan")  # type: ignore[arg-type]

    assert "(CUBLAS_STATUS_NOT_SUPPORTED)" in str(_probe_problem(missing, CPU, torch.bfloat16))
    for broken in (wrong, not_a_number):
        assert "wrongly" in str(_probe_problem(broken, CPU, torch.bfloat16))
    assert _probe_problem(kernel_product, CPU, torch.bfloat16) is None


def test_scores_in_fp8_are_near_and_every_row_says_so() -> None:
    full = Scorer.load(device="cpu")
    before = full.score(PHOTOGRAPHS)
    scorer = full.in_fp8(reference_product)
    assert scorer.provenance.dtype == "float32+fp8"
    after = scorer.score(PHOTOGRAPHS)
    assert after != before
    for one, other in zip(before, after, strict=True):
        assert numbers(other)["score"] == pytest.approx(numbers(one)["score"], abs=0.5)


def test_an_adapter_that_is_to_be_replaced_stays_in_full(artefact: Artefact) -> None:
    with pytest.raises(ConfigurationError, match="fp8: an adapter that is to be replaced"):
        Scorer.load(artefact.adapter, keep_base=True, fp8=True)
    with pytest.raises(ValueError, match="must stay"):
        Scorer.load(artefact.adapter, keep_base=True).in_fp8(reference_product)


@pytest.mark.gpu
def test_the_kernel_of_this_gpu_multiplies_as_the_reference() -> None:
    device = torch.device("cuda")
    product = fp8_product(device, torch.bfloat16)
    for rows in (1, 17, 267, 4099):
        weight = torch.randn(1536, 512, device=device)
        given = (*quantised(torch.randn(rows, 512, device=device)), *quantised(weight), torch.bfloat16)
        torch.testing.assert_close(product(*given), reference_product(*given), rtol=0.01, atol=0.1)


@pytest.mark.gpu
def test_a_scorer_in_fp8_runs_on_this_gpu() -> None:
    before = Scorer.load(device="cuda").score(PHOTOGRAPHS)
    scorer = Scorer.load(device="cuda", fp8=True)
    assert scorer.provenance.dtype == "bfloat16+fp8"
    for one, other in zip(before, scorer.score(PHOTOGRAPHS), strict=True):
        assert numbers(other)["score"] == pytest.approx(numbers(one)["score"], abs=1.0)
