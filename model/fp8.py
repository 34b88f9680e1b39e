"""FP8: the language model's linear layers as 8-bit floats, off by default.

    use_fp8(model, fp8_product(device))       # after adapters are merged; there is no way back

Weights are rounded to ``float8_e4m3fn`` once, with a scale for every output channel; activations at run
time, with a scale for every row. The vision tower, the embeddings and the head that decides values keep their
number format. What that does to scores is for ``model.fp8_check`` to say, for every adapter anew.

``reference_product`` computes what the kernel does, from the same 8-bit numbers, on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from schemas.errors import ConfigurationError

FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(FORMAT).max
_SMALLEST = 1e-12
"""Least magnitude of a row that has a scale of its own; below, division would overflow."""
_CAPABILITY = (8, 9)
_MULTIPLE = 16
"""The kernel takes matrices whose inner and outer sides are multiples of it."""
_PROBE = (48, 64, 32)
_PROBE_ERROR = 0.01

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.dtype], torch.Tensor]
"""(rows, in) FP8, (rows, 1) scales, (out, in) FP8, (out, 1) scales, number format → (rows, out)."""


def quantised(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows to FP8, the largest of each to the largest number that FP8 has.

    Args:
        rows: (rows, columns), of any number format.

    Returns:
        The rows in ``FORMAT``, and float32 scales (rows, 1): rows ≈ FP8 · scale.
    """
    numbers = rows.float()
    scales = numbers.abs().amax(1, keepdim=True).clamp_min(_SMALLEST) / _LARGEST
    # Clamped: the division may round the largest up, and what FP8 cannot hold becomes NaN.
    return (numbers / scales).clamp(-_LARGEST, _LARGEST).to(FORMAT), scales


def reference_product(
    rows: torch.Tensor,
    row_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``rows @ weight.T`` of FP8 numbers, written out in float32; see ``Product``."""
    return ((rows.float() * row_scales) @ (weight.float() * scales).T).to(dtype)


def kernel_product(
    rows: torch.Tensor,
    row_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The same by the device's FP8 units; see ``Product``."""
    product: torch.Tensor = torch._scaled_mm(
        rows, weight.T, scale_a=row_scales, scale_b=scales.T, out_dtype=dtype
    )
    return product


def fp8_product(device: torch.device, dtype: torch.dtype) -> Product:
    """Give the kernel, where the device has one that computes rightly.

    Raises:
        ConfigurationError: It has none; says why.
    """
    problem = _device_problem(device, dtype) or _probe_problem(kernel_product, device, dtype)
    if problem is not None:
        raise ConfigurationError(f"fp8: {problem}")
    return kernel_product


def _device_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"needs a CUDA device, and this is {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"needs a GPU of compute capability 8.9 or higher; {name} has {'.'.join(map(str, capability))}"
    if dtype != torch.bfloat16:
        return f"needs bfloat16 for all else, not {str(dtype).removeprefix('torch.')}"
    return None


def _probe_problem(product: Product, device: torch.device, dtype: torch.dtype) -> str | None:
    """Multiply once: a new enough GPU may still lack the kernel in this build of torch."""
    count, wide, out = _PROBE
    draw = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(side, wide, generator=draw).to(device) for side in (count, out))
    given = (*quantised(rows), *quantised(weight), dtype)
    try:
        found = product(*given).float()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return f"this build of torch cannot multiply FP8 here ({str(error).splitlines()[0]})"
    wanted = reference_product(*given).float()
    # Not "if it is more": what is no number is neither more nor less.
    if not (found - wanted).abs().max() <= _PROBE_ERROR * wanted.abs().max():
        return "this build of torch multiplies FP8 wrongly here"
    return None


class Fp8Linear(nn.Module):
    """A linear layer in FP8.

    Args:
        linear: What it takes the place of.
        product: Multiplies.
    """

    weight: torch.Tensor
    scales: torch.Tensor

    def __init__(self, linear: nn.Linear, product: Product) -> None:
        super().__init__()
        weight, scales = quantised(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.bias = linear.bias
        self._product = product

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) → (..., out), in the number format of the inputs."""
        rows, row_scales = quantised(inputs.flatten(0, -2))
        found = self._product(rows, row_scales, self.weight, self.scales, inputs.dtype)
        found = found.reshape(*inputs.shape[:-1], -1)
        return found if self.bias is None else found + self.bias


@torch.no_grad()
def use_fp8(model: Any, product: Product) -> None:
    """Turn the linear layers of a model's language tower into FP8, in place, one at a time.

    Args:
        model: ``Qwen2VLForConditionalGeneration``, with its adapter merged.
        product: ``fp8_product``, or ``reference_product`` to try things out.

    Raises:
        ConfigurationError: A layer has a shape that FP8 kernels do not take; nothing was changed.
    """
    tower = model.model.language_model
    linears = {name: module for name, module in tower.named_modules() if isinstance(module, nn.Linear)}
    odd = [
        f"fp8: {name} is {tuple(linear.weight.shape)}, both sides must be multiples of {_MULTIPLE}"
        for name, linear in linears.items()
        if any(side % _MULTIPLE for side in linear.weight.shape)
    ]
    if odd:
        raise ConfigurationError(odd)
    for name in list(linears):
        parent, _, last = name.rpartition(".")
        # Taken out: held until the end, the full weights would need room beside all of the small ones.
        setattr(tower.get_submodule(parent), last, Fp8Linear(linears.pop(name), product))
