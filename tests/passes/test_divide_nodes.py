"""Graphs of pieces compute what the whole graphs compute, whatever is divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.dag import Dag, NodeKind
from fxdevice.dims import VIEWED, Along, Layout, Strided
from fxdevice.divisible import can_divide
from fxdevice.expand import expand
from fxdevice.passes.divide_nodes import divide_nodes
from fxdevice.passes.estimate_costs import estimate_costs
from fxdevice.passes.normalize import normalize
from fxdevice.passes.repeatable import dims_or_repeatable
from fxdevice.placement import Placement
from tests.graph_strategies import Program, TracingMode, programs

aten = torch.ops.aten


def traced(
    function: Callable[..., Any], inputs: Sequence[Tensor], mode: TracingMode = "fake"
) -> fx.GraphModule:
    module = make_fx(function, tracing_mode=mode)(*inputs)
    return fx.GraphModule(module, normalize(module.graph))


def dag_of(module: fx.GraphModule) -> Dag:
    return estimate_costs(module.graph, {}, dims_of=dims_or_repeatable)


def divided(
    module: fx.GraphModule,
    dag: Dag,
    layout_of: Mapping[str, Layout],
    slot_of: Mapping[str, int] | None = None,
) -> fx.GraphModule:
    """Return the graph with some of its nodes divided; the others are on slot 0."""
    computed = (node.name for node in dag if node.kind is not NodeKind.INPUT)
    placement = Placement(dict.fromkeys(computed, 0) | dict(slot_of or {}), {}, layout_of)
    returned = [node.name for node in module.graph.output_node().all_input_nodes]
    graph, _ = divide_nodes(module.graph, expand(dag, placement, returned))
    graph.lint()
    return fx.GraphModule(module, graph)


def assert_same(found: fx.GraphModule, wanted: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    results = []
    for module in (found, wanted):
        torch.manual_seed(0)
        results.append(module(*inputs))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5, equal_nan=True)


def node_of(module: fx.GraphModule, target: Any) -> fx.Node:
    node: fx.Node
    (node,) = module.graph.find_nodes(op="call_function", target=target)
    return node


def test_sizes_that_other_nodes_compute() -> None:
    def function(x: Tensor) -> Tensor:
        features = x.unsqueeze(-1) * torch.arange(24.0)
        return features.view(*x.shape, 3, 8).relu()

    module = traced(function, [torch.randn(4, 5)], "symbolic")
    dag = dag_of(module)
    view = node_of(module, aten.view.default).name
    # Two sizes among the arguments are nodes; a third one becomes that of the piece.
    pieces = divided(module, dag, {view: Layout(node_label(dag, view, 2), (2, 1), (0, 1))})
    assert len(pieces.graph.find_nodes(op="call_function", target=aten.view.default)) == 2
    for shape in ((4, 5), (7, 2)):
        assert_same(pieces, module, [torch.randn(*shape)])


def node_label(dag: Dag, name: str, dim: int) -> int:
    """Return the label of a dimension of what a node reads."""
    dims = dag[name].dims
    assert dims is not None
    (found,) = dims.inputs.values()
    label = found[dim]
    assert label is not None
    return label


TRANSPOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.t().exp().t().reshape(24),
    "draws": lambda x: torch.rand_like(x.t().exp()) + x.t(),
    "storage": lambda x: x.t().exp().as_strided((3, 4), (1, 3), 2),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_whole_values_lie_in_memory_as_before(name: str) -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    module = traced(TRANSPOSED[name], [x])
    exp = node_of(module, aten.exp.default)
    assert exp.meta["val"].stride() == (1, 6)
    for label in (0, 1):
        pieces = divided(module, dag_of(module), {exp.name: Layout(label, (1, 1), (0, 1))})
        assert_same(pieces, module, [x])


def test_view_of_a_value_that_was_expanded() -> None:
    def function(x: Tensor) -> Tensor:
        return x.expand(4, 6, 2).transpose(0, 1).view(3, 2, 4, 2)

    x = torch.randn(6, 2)
    module = traced(function, [x])
    expanded = node_of(module, aten.expand.default).name
    assert_same(divided(module, dag_of(module), {expanded: Layout(0, (1, 1), (0, 1))}), module, [x])


def test_pieces_have_names_of_their_own() -> None:
    module = traced(lambda x: x.sin().view(2, 2, 3), [torch.randn(4, 3)])
    view = node_of(module, aten.view.default).name
    pieces = divided(module, dag_of(module), {view: Layout(0, (1, 1), (0, 1))})
    names = {node.name for node in pieces.graph.nodes}
    assert {f"{view}_piece0", f"{view}_piece1"} <= names


LABELS: tuple[Along, ...] = (
    *range(6),
    *(Strided(label, 2) for label in range(6)),
    *(Strided(VIEWED, num_runs) for num_runs in range(1, 9)),
)


@st.composite
def layouts(draw: st.DrawFn, dag: Dag) -> dict[str, Layout]:
    """Draws layouts for some of the nodes that can be divided or copied."""
    found = {}
    slots = st.integers(0, 2)
    for node in dag:
        if node.kind is not NodeKind.COMPUTE or node.dims is None or not draw(st.booleans()):
            continue
        if draw(st.integers(0, 3)) == 0:
            chosen = draw(st.lists(slots, min_size=1, unique=True))
            found[node.name] = Layout.copied(tuple(chosen))
            continue
        shares = draw(st.sampled_from([(1, 1), (1, 3), (1, 1, 2)]))
        labels = [label for label in LABELS if can_divide(node, label, dag, shares)]
        if labels:
            where = tuple(draw(slots) for _ in shares)
            found[node.name] = Layout(draw(st.sampled_from(labels)), shares, where)
    return found


@settings(max_examples=60, deadline=None)
@given(programs(), st.sampled_from(["fake", "symbolic"]), st.data())
def test_any_layouts(program: Program, mode: TracingMode, data: st.DataObject) -> None:
    inputs = program.inputs()
    module = traced(program, inputs, mode)
    dag = dag_of(module)
    pieces = divided(module, dag, data.draw(layouts(dag)))
    assert_same(pieces, module, inputs)
