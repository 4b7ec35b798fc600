"""What `op_dims` promises for any operator, and what `local_call` does to arguments."""

from __future__ import annotations

import itertools
import math
import operator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.errors import PlanError
from fxdevice.op_dims import dispatch, local_call, op_dims
from fxdevice.op_dims.pointwise import pointwise
from fxdevice.op_dims.views import view_labels
from tests.op_dims.proof import call_node, notation, prove
from tests.op_dims.values import aten, real

FACTORS = st.lists(st.sampled_from([1, 2, 2, 3, 4]), min_size=1, max_size=4)


@st.composite
def shapes_of_one_size(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Draws two shapes with as many elements: factors in one order, merged differently."""
    factors = draw(FACTORS)

    def merged(factors: list[int]) -> list[int]:
        cuts = sorted(draw(st.sets(st.integers(1, len(factors)), max_size=len(factors))))
        ends = [0, *cuts, len(factors)]
        return [math.prod(factors[i:j]) for i, j in itertools.pairwise(ends)]

    return merged(factors), merged(factors if draw(st.booleans()) else factors[::-1])


@settings(max_examples=40)
@given(shapes_of_one_size())
def test_views_of_any_shapes(shapes: tuple[list[int], list[int]]) -> None:
    before, after = shapes
    node = call_node(aten.view.default, (real(*before), after))
    prove(node, {n: n.meta["val"] for n in node.all_input_nodes})


def test_labels_of_a_view_are_all_that_there_are() -> None:
    """Against brute force: two dimensions correspond where equal halves hold equal elements."""
    shape = [2, 2, 4]
    for after in ([4, 4], [2, 8], [16], [4, 2, 2], [2, 2, 2, 2], [8, 2], [2, 1, 2, 4]):
        first, second = view_labels(tuple(shape), tuple(after))
        elements = torch.arange(16)
        expected = {
            (i, j)
            for i, n in enumerate(shape)
            for j, m in enumerate(after)
            if m > 1
            and torch.equal(
                elements.view(shape).narrow(i, 0, n // 2).flatten(),
                elements.view(after).narrow(j, 0, m // 2).flatten(),
            )
        }
        found = {
            (i, j)
            for i, label in enumerate(first)
            for j, other in enumerate(second)
            if label is not None and label == other
        }
        assert found == expected, after


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([2, 3, 4]), st.booleans(), st.booleans()), max_size=4),
    st.integers(0, 4),
)
def test_broadcast_of_any_shapes(dims: list[tuple[int, bool, bool]], num_missing: int) -> None:
    first = real(*(1 if is_one else size for size, is_one, _ in dims))
    second = real(*[1 if is_one else size for size, _, is_one in dims][num_missing:], seed=1)
    node = call_node(aten.sub.Tensor, (first, second))
    found = prove(node, {n: n.meta["val"] for n in node.all_input_nodes})
    assert found == sum(size > 1 for size in node.meta["val"].shape)


def test_one_value_in_two_roles_needs_one_piece() -> None:
    square = real(4, 4)
    assert notation(op_dims(call_node(aten.mm.default, (square, square)))) == ""
    node = call_node(aten.addmm.default, (square, square, real(4, 4, seed=1)))
    # Rows of the sum and of the first factor run together; its columns are contracted.
    assert notation(op_dims(node)) == "a.,..->a."


def test_sizes_without_a_common_divisor_are_not_cut() -> None:
    assert op_dims(call_node(aten.view.default, (real(5, 3), [3, 5]))) is None
    assert op_dims(call_node(aten.neg.default, (real(1, 1),))) is None
    assert op_dims(call_node(aten.neg.default, (real(0, 2),))) is not None
    assert notation(op_dims(call_node(aten.neg.default, (real(0, 2),)))) == ".a->.a"


def test_elements_of_a_tuple_have_no_labels_of_their_own() -> None:
    node = call_node(aten.split.Tensor, (real(4, 6), 3, 1))
    with node.graph.inserting_after(node):
        element = node.graph.call_function(operator.getitem, (node, 0))
    element.meta["val"] = node.meta["val"][0]
    assert op_dims(element) is None


def test_dropout_inside_attention_is_not_divided() -> None:
    query = real(4, 6, 8, 10)
    args = (query, query, query, 0.0)
    node = call_node(aten._scaled_dot_product_flash_attention_for_cpu.default, args)
    assert op_dims(node) is not None
    node.args = (*node.args[:3], 0.5)  # the kernel of the CPU has none
    assert op_dims(node) is None


def symbolic(function: Any, *args: Tensor) -> dict[str, fx.Node]:
    graph = make_fx(function, tracing_mode="symbolic")(*args).graph
    return {str(node.target): node for node in graph.nodes}


def test_symbolic_sizes() -> None:
    def function(x: Tensor) -> Tensor:
        product = x.sin() @ torch.ones(x.shape[1], 8, dtype=x.dtype)
        return product.view(x.shape[0], 2, 4).softmax(-1).sum(0)

    nodes = symbolic(function, real(6, 4))
    # What varies cannot be cut in shares of one size; what is fixed can.
    assert op_dims(nodes["aten.sin.default"]) is None
    assert notation(op_dims(nodes["aten.mm.default"])) == "..,.a->.a"
    assert notation(op_dims(nodes["aten.view.default"])) == ".a->.a."
    assert notation(op_dims(nodes["aten._softmax.default"])) == ".a.->.a."
    assert notation(op_dims(nodes["aten.sum.dim_IntList"])) == ".ab->ab"


def new_graph(node: fx.Node, value: Tensor | None) -> tuple[fx.Graph, fx.Node]:
    graph = fx.Graph()
    piece = graph.placeholder("piece")
    if value is not None:
        piece.meta["val"] = value
    return graph, piece


def test_share_that_is_no_whole_number() -> None:
    node = call_node(aten.view.default, (real(4, 6), [2, 2, 6]))
    graph, piece = new_graph(node, None)
    with pytest.raises(PlanError, match=r"2 elements in whole numbers, found 1/4"):
        local_call(graph, node, {node.all_input_nodes[0]: piece}, 0, 1, 4)


def test_view_of_a_piece_with_other_strides_copies() -> None:
    node = call_node(aten.view.default, (real(4, 6), [24]))
    across = real(6, 2).t()
    graph, piece = new_graph(node, across)
    read_as = {node.all_input_nodes[0]: piece}
    assert local_call(graph, node, read_as, 0, 1, 2).target is aten.reshape.default
    graph, piece = new_graph(node, across.contiguous())
    read_as = {node.all_input_nodes[0]: piece}
    assert local_call(graph, node, read_as, 0, 1, 2).target is aten.view.default


def test_statistics_are_copied_only_where_they_are_not_contiguous() -> None:
    x = real(4, 6, 8)
    _, mean, rstd = aten.native_layer_norm.default(x, [8], None, None, 1e-5)
    args = (x, x + 1, [8], mean, rstd, None, None, [True, False, False])
    node = call_node(aten.native_layer_norm_backward.default, args)
    for label, num_copies in ((0, 0), (1, 2)):
        graph = fx.Graph()
        pieces = []
        for read in node.all_input_nodes:
            pieces.append(graph.placeholder(read.name))
            pieces[-1].meta["val"] = read.meta["val"].narrow(label, 0, 2)
        own = dict(zip(node.all_input_nodes, pieces, strict=True))
        local_call(graph, node, own, label, 2, x.shape[label])
        copies = graph.find_nodes(op="call_function", target=aten.clone.default)
        assert len(copies) == num_copies
        assert all(copy.meta["val"].is_contiguous() for copy in copies)


def test_name_of_the_new_node() -> None:
    for target, args in ((aten.neg.default, ()), (aten.squeeze.default, ())):
        node = call_node(target, (real(4, 1, 6), *args))
        graph, piece = new_graph(node, None)
        read_as = {node.all_input_nodes[0]: piece}
        assert local_call(graph, node, read_as, 0, 1, 2, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten._softmax.default, (real(4, 6), 1, False)),
        (aten.cumsum.default, (real(4, 6), 0)),
        (aten.flip.default, (real(4, 6), [1])),
        (aten.sort.default, (real(4, 6), 1)),
        (aten.roll.default, (real(4, 6), [1], [0])),
        (aten.tril.default, (real(4, 6),)),
    ],
)
def test_the_proof_finds_wrong_labels(
    target: Any, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = call_node(target, args)
    monkeypatch.setattr(dispatch, "rule_of", lambda _: pointwise)
    with pytest.raises(AssertionError):
        prove(node, {n: n.meta["val"] for n in node.all_input_nodes})
