"""Normalization leaves nothing of the trace device where a plain form exists."""

from __future__ import annotations

import torch
from expecttest import assert_expected_inline
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.passes.normalize import normalize

CPU = torch.device("cpu")
aten = torch.ops.aten


def program(x: Tensor) -> tuple[Tensor, ...]:
    same = aten._to_copy.default(x + 1, device=CPU)
    dense = aten._to_copy.default(x.t()[1:], device=CPU)
    returned = torch.ops.prims.device_put.default(x, CPU)
    double = aten._to_copy.default(x, dtype=torch.float64, device=CPU)
    aten._assert_tensor_metadata.default(x, None, None, torch.float32, device=CPU)
    filled = torch.zeros_like(same) + x.new_ones(4, 4) + torch.full_like(x.t(), 3.0)
    return same.neg() + filled, dense.t(), returned.view(16), double


def targets(graph: fx.Graph) -> list[str]:
    return [f"{n.name} = {n.target}" for n in graph.nodes if n.op == "call_function"]


def test_copies_assertions_and_templates() -> None:
    module = make_fx(program, tracing_mode="fake")(torch.randn(4, 4))
    before = str(module.graph)
    graph = normalize(module.graph)
    assert str(module.graph) == before
    assert_expected_inline(
        "\n".join(targets(graph)),
        """\
add = aten.add.Tensor
t = aten.t.default
slice_1 = aten.slice.Tensor
_to_copy_1 = aten.clone.default
device_put = aten.clone.default
_to_copy_2 = aten._to_copy.default
zeros_like = aten.full.default
new_ones = aten.full.default
add_1 = aten.add.Tensor
t_1 = aten.t.default
full_like = aten.full_like.default
add_2 = aten.add.Tensor
neg = aten.neg.default
add_3 = aten.add.Tensor
t_2 = aten.t.default
view = aten.view.default""",
    )
    x = torch.randn(4, 4)
    found = fx.GraphModule(module, graph)(x)
    for result, expected in zip(found, program(x), strict=True):
        assert torch.equal(result, expected)
        assert result.stride() == expected.stride()
        assert result.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_it_is_idempotent_and_works_with_symbols() -> None:
    module = make_fx(program, tracing_mode="symbolic")(torch.randn(4, 4))
    graph = normalize(module.graph)
    assert str(normalize(graph)) == str(graph)
    x = torch.randn(4, 4)
    found = fx.GraphModule(module, graph)(x)
    assert all(torch.equal(a, b) for a, b in zip(found, program(x), strict=True))
    assert "aten._assert_tensor_metadata.default" not in str(graph)
