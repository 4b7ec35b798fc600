"""Operations without a dimension to divide may still be computed on several slots."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.op_dims import op_dims
from fxdevice.passes.repeatable import dims_or_repeatable

aten = torch.ops.aten


def last_operation(function: object, *inputs: Tensor) -> fx.Node:
    module = make_fx(function, tracing_mode="fake")(*inputs)  # type: ignore[arg-type]
    found: fx.Node = [node for node in module.graph.nodes if node.op == "call_function"][-1]
    return found


WORD = torch.randn(1, 1, 8)


@pytest.mark.parametrize(
    ("function", "num_dims"),
    [
        (lambda x: torch.softmax(x, -1), [3]),
        (lambda x: aten.native_layer_norm(x, [8], None, None, 1e-5), [3, 3, 3]),
    ],
)
def test_pure_operations_without_labels(function: object, num_dims: list[int]) -> None:
    node = last_operation(function, WORD)
    if node.name.startswith("getitem"):
        node = node.all_input_nodes[0]
    assert op_dims(node) is None
    dims = dims_or_repeatable(node)
    assert dims is not None
    assert [len(output) for output in dims.outputs] == num_dims
    assert {label for output in dims.outputs for label in output} == {None}
    assert not any(dims.sums)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.rand_like(x),
        lambda x: x.add_(1),
        lambda x: x.as_strided([2], [1]),
    ],
)
def test_operations_that_must_run_once(function: object) -> None:
    assert dims_or_repeatable(last_operation(function, WORD.clone())) is None


def test_labels_are_those_of_op_dims() -> None:
    node = last_operation(lambda x: x * 2, WORD)
    assert dims_or_repeatable(node) == op_dims(node) is not None
