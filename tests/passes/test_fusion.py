"""Groups of operations that run as one kernel."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from fxdevice.passes.estimate_costs import estimate_costs
from fxdevice.passes.fusion import MAX_GROUP, fusion_groups, makers
from fxdevice.passes.kernels import kernel_work
from fxdevice.passes.loops import loop_of
from fxdevice.passes.traffic import is_kernel
from tests.passes.traced import traced

NOTHING: frozenset[fx.Node] = frozenset()


def targets(function: Callable[..., object], *inputs: Tensor) -> list[list[str]]:
    groups = fusion_groups(traced(function, *inputs), NOTHING)
    return [[str(node.target).split(".")[1] for node in group] for group in groups]


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def swiglu(x: Tensor, a: Tensor, b: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    for _ in range(2):
        y = rms_norm(x, weight)
        x = x + (F.silu(y @ a) * (y @ b)) @ c
    return x


def attention(x: Tensor, w: Tensor) -> Tensor:
    q, k, v = (x @ w).view(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    mask = torch.arange(6)[:, None] >= torch.arange(6)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~mask, -1e9)
    return x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 6, 8)


def test_a_normalization_is_one_kernel() -> None:
    (group,) = targets(rms_norm, torch.ones(4, 8), torch.ones(8))
    assert group == ["pow", "mean", "add", "rsqrt", "mul", "mul"]


def test_products_stand_alone() -> None:
    found = targets(lambda x: ((x + 1) @ x).relu() * 2, torch.ones(3, 3))
    assert found == [["add"], ["mm"], ["relu", "mul"]]


def test_no_group_leads_around_another_kernel() -> None:
    # The sum at the end reads `y` directly and through the product: in one group with `y` it would
    # have to run both before and after the product.
    found = targets(lambda x: (y := x.sin()) + y @ y, torch.ones(3, 3))
    assert found == [["sin"], ["mm"], ["add"]]


def test_reductions_of_different_sizes_are_kernels_of_their_own() -> None:
    assert targets(lambda x: x.sum(0).sum(), torch.ones(3, 4)) == [["sum"], ["sum"]]


def test_groups_are_bounded() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(2 * MAX_GROUP):
            x = x.sin()
        return x

    assert [len(group) for group in targets(chain, torch.ones(2))] == [MAX_GROUP, MAX_GROUP]


def test_forward_and_backward_are_kernels_apart() -> None:
    graph = traced(lambda x: x.sin().cos(), torch.ones(2))
    late = frozenset(graph.find_nodes(op="call_function", target=torch.ops.aten.cos.default))
    assert [len(group) for group in fusion_groups(graph, late)] == [1, 1]


def test_traffic_of_a_kernel_is_what_crosses_its_border() -> None:
    graph = traced(lambda x, w: (rms_norm(x, w), x.relu()), torch.ones(4, 8), torch.ones(8))
    work, internal = kernel_work(graph, NOTHING, fuses=True)
    norm, relu = fusion_groups(graph, NOTHING)
    # It reads x and the weight and writes the result; `relu` reads x again.
    assert sum(work[node].traffic_bytes for node in norm) == 4 * (32 + 8 + 32)
    assert sum(work[node].traffic_bytes for node in relu) == 4 * (32 + 32)
    assert internal == frozenset(norm[:-1])


def inductor_kernels(graph: fx.Graph) -> int:
    """Number of loops that inductor generates for a decomposed graph on the CPU."""
    import torch._inductor.lowering
    from torch._inductor import config
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    module = fx.GraphModule(torch.nn.Module(), graph)
    fakes = [node.meta["val"] for node in graph.find_nodes(op="placeholder")]
    mode = fakes[0].fake_mode
    lowering = GraphLowering(module, shape_env=mode.shape_env)
    # The width of vectors is given: to find the machine's, inductor compiles a program.
    width = config.patch({"cpp.simdlen": 1})
    debug = V.set_debug_handler(DebugContext())
    with width, V.set_graph_handler(lowering), V.set_fake_mode(mode), debug:
        lowering.run(*fakes)
        code: Any = lowering.codegen()[0]
    return len(re.findall(r"^\s+cpp_fused\w*\(", getattr(code, "value", code), re.MULTILINE))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (rms_norm, [(4, 8), (8,)]),
        (swiglu, [(4, 8), (8, 16), (8, 16), (16, 8), (8,)]),
        (attention, [(2, 6, 8), (8, 24)]),
        (lambda x, w: F.gelu(F.layer_norm(x @ w, (6,))).softmax(-1).sum(), [(4, 8), (8, 6)]),
        (
            lambda x, w: F.conv2d(F.group_norm(x, 2), w).relu().amax((2, 3)),
            [(2, 4, 5, 5), (3, 4, 3, 3)],
        ),
    ],
)
def test_as_many_kernels_as_inductor(
    function: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    from torch._inductor.decomposition import select_decomp_table

    inputs = [torch.ones(shape) for shape in shapes]
    graph = traced(function, *inputs, decompositions=select_decomp_table())
    loops = [group for group in fusion_groups(graph, NOTHING) if loop_of(group[0]) is not None]
    expected = inductor_kernels(graph)
    # Inductor also joins kernels that read the same input, and unrolls small ones.
    assert expected <= len(loops) <= 2 * expected


@st.composite
def functions(draw: st.DrawFn) -> Callable[[Tensor], list[Tensor]]:
    """Draws a function of a [4, 4] tensor: random operations on earlier values."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["sin", "add", "mm", "softmax", "mean", "view", "chunk"]),
                st.integers(0, 30),
                st.integers(0, 30),
            ),
            min_size=1,
            max_size=14,
        )
    )
    num_results = draw(st.integers(1, 3))

    def function(x: Tensor) -> list[Tensor]:
        values = [x]
        for name, first, second in steps:
            a, b = values[first % len(values)], values[second % len(values)]
            made = {
                "sin": lambda a, b: a.sin(),
                "add": lambda a, b: a + b,
                "mm": lambda a, b: a @ b,
                "softmax": lambda a, b: a.softmax(1),
                "mean": lambda a, b: a.mean(1, keepdim=True) * b,
                "view": lambda a, b: a.t(),
                "chunk": lambda a, b: torch.cat(a.chunk(2)[::-1]),
            }[name](a, b)
            values.append(made)
        return values[-num_results:]

    return function


@given(functions())
@settings(max_examples=25)
def test_groups_of_random_graphs(function: Callable[[Tensor], list[Tensor]]) -> None:
    graph = traced(function, torch.ones(4, 4))
    groups = fusion_groups(graph, NOTHING)
    assert sorted(n.name for group in groups for n in group) == sorted(
        n.name for n in graph.nodes if is_kernel(n)
    )
    group_of = {node: index for index, group in enumerate(groups) for node in group}
    maker_of = makers(graph)
    before = {
        index: {group_of[maker_of[r]] for n in group for r in n.all_input_nodes if r in maker_of}
        - {index}
        for index, group in enumerate(groups)
    }
    graphlib.TopologicalSorter(before).prepare()  # raises when joined kernels make a cycle
    fused, apart = (estimate_costs(graph, {}, fuses=fuses) for fuses in (True, False))
    assert sum(node.num_launches for node in fused) == len(groups)
    assert sum(n.traffic_bytes for n in fused) <= sum(n.traffic_bytes for n in apart)
    assert [node.flops for node in fused] == [node.flops for node in apart]
    assert [node.has_work for node in fused] == [node.has_work for node in apart]


@given(functions())
@settings(max_examples=25)
def test_traffic_of_random_graphs(function: Callable[[Tensor], list[Tensor]]) -> None:
    """All tensors are dense and of 64 bytes, but for their means (16) and halves (32)."""
    graph = traced(function, torch.ones(4, 4))
    work, internal = kernel_work(graph, NOTHING, fuses=True)
    for group in fusion_groups(graph, NOTHING):
        members = set(group)
        reads = {n for m in group for n in m.all_input_nodes if makers(graph).get(n) not in members}
        written = sum(n.meta["val"].nbytes for n in group if n not in internal)
        least = max((n.meta["val"].nbytes for n in reads), default=0)
        most = sum(n.meta["val"].nbytes for n in reads)
        assert least <= sum(work[n].traffic_bytes for n in group) - written <= most
