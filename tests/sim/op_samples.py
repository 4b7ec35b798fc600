"""PyTorch's own samples of its operators, run on the CPU and on a simulated device and compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "fxsim:0"
# The first that an operator supports is tested.
DTYPES = (
    torch.float32,
    torch.complex64,
    torch.int64,
    torch.bool,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
)
# Operators with a tensor argument that has to be on the CPU.
TAKES_CPU_ARGUMENTS = {"tensor_split"}
# Whose out= variant leaves values uninitialised on the CPU as well.
BROKEN_OUT = {"fft.ihfft2", "fft.ihfftn"}

Run = Callable[[Callable[[Any], Any]], list[Tensor]]


def full_name(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def num_compared(op: Any, num_samples: int) -> int:
    """Compares values, gradients, in-place and out= variants; returns the number of tensors."""
    supported = op.supported_dtypes("cpu")
    dtype = next(dtype for dtype in DTYPES if dtype in supported)
    with_gradient = op.supports_autograd and (dtype.is_floating_point or dtype.is_complex)
    compared = 0
    samples = op.sample_inputs("cpu", dtype, requires_grad=with_gradient)
    for sample in itertools.islice(samples, num_samples):
        compared += _compare(op, lambda convert: _values_and_gradients(op, sample, convert))  # noqa: B023
        compared += _compare(op, lambda convert: _in_place(op, sample, convert))  # noqa: B023
        compared += _compare(op, lambda convert: _with_out(op, sample, convert))  # noqa: B023
    return compared


def _compare(op: Any, run: Run) -> int:
    try:
        expected = run(_to_cpu)
    except Exception:
        return 0  # a sample that the CPU refuses
    results = run(lambda value: _to_device(op, value))
    assert len(results) == len(expected)
    for result, reference in zip(results, expected, strict=True):
        assert result.device == torch.device(DEVICE), result.device
        _assert_close(result.detach().cpu(), reference.detach())
    return len(expected)


def _assert_close(result: Tensor, reference: Tensor) -> None:
    if reference.dtype.is_floating_point and reference.dtype.itemsize == 1:
        assert torch.equal(result.view(torch.uint8), reference.view(torch.uint8))
    else:
        torch.testing.assert_close(result, reference, equal_nan=True)


def _to_cpu(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def _to_device(op: Any, value: Any) -> Any:
    if isinstance(value, Tensor):
        if op.name in TAKES_CPU_ARGUMENTS and not value.dtype.is_floating_point:
            return value
        return value.detach().to(DEVICE).requires_grad_(value.requires_grad)
    if isinstance(value, torch.device) or (isinstance(value, str) and value == "cpu"):
        return torch.device(DEVICE)
    return value


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _values_and_gradients(op: Any, sample: Any, convert: Callable[[Any], Any]) -> list[Tensor]:
    arguments = tree_map(convert, (sample.input, sample.args, sample.kwargs))
    first, rest, named = arguments
    torch.manual_seed(0)
    result = op.op(first, *rest, **named)
    values = _tensors(result)
    if not values:
        # A number or a truth value: bring it in the form of a tensor.
        return [torch.tensor(result, device=_device_of(arguments))]
    sources = [value for value in _tensors(arguments) if value.requires_grad]
    losses = [value for value in values if value.requires_grad]
    if not losses or not sources:
        return values
    total = [(loss.abs() if loss.is_complex() else loss).sum() for loss in losses]
    gradients = torch.autograd.grad(total, sources, allow_unused=True)
    return values + [gradient for gradient in gradients if gradient is not None]


def _device_of(arguments: Any) -> torch.device:
    return _tensors(arguments)[0].device


def _in_place(op: Any, sample: Any, convert: Callable[[Any], Any]) -> list[Tensor]:
    variant = op.inplace_variant
    if variant is None or not isinstance(sample.input, Tensor):
        return []
    arguments = tree_map(convert, (sample.input, sample.args, sample.kwargs))
    first, rest, named = tree_map(_without_gradient, arguments)
    torch.manual_seed(0)
    assert variant(first, *rest, **named) is first
    return [first]


def _with_out(op: Any, sample: Any, convert: Callable[[Any], Any]) -> list[Tensor]:
    if not op.supports_out or "out" in sample.kwargs or full_name(op) in BROKEN_OUT:
        return []
    arguments = tree_map(convert, (sample.input, sample.args, sample.kwargs))
    first, rest, named = tree_map(_without_gradient, arguments)
    result = op.op(first, *rest, **named)
    out = tree_map(lambda value: torch.empty(0, dtype=value.dtype, device=value.device), result)
    torch.manual_seed(0)
    op.op(first, *rest, **named, out=out)
    return _tensors(out)


def _without_gradient(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
