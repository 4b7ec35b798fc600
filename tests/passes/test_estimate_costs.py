"""FLOPs, traffic and the other facts of a Dag's nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import OpDims
from fxdevice.passes.estimate_costs import GraphInput, estimate_costs
from fxdevice.passes.flops import is_product, num_flops
from tests.passes.traced import node_of, traced

aten = torch.ops.aten


def dag_of(function: Callable[..., object], *inputs: Tensor, fuses: bool = False) -> Dag:
    return estimate_costs(traced(function, *inputs), {}, fuses=fuses)


def only(function: Callable[..., object], *inputs: Tensor) -> DagNode:
    """Returns the only node of a function that does work."""
    (node,) = (n for n in dag_of(function, *inputs) if n.kind is NodeKind.COMPUTE and n.has_work)
    return node


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda a, b: a @ b, [(3, 4), (4, 5)]),
        (lambda a, b: torch.bmm(a, b), [(2, 3, 4), (2, 4, 5)]),
        (lambda c, a, b: torch.baddbmm(c, a, b), [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
        (lambda x, w: F.conv2d(x, w, stride=2), [(2, 3, 9, 9), (4, 3, 3, 3)]),
        (lambda q: F.scaled_dot_product_attention(q, q, q), [(2, 4, 6, 8)]),
    ],
)
def test_flops_are_those_of_the_flop_counter(
    function: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    inputs = [torch.ones(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    # It knows attention only on accelerators; on the CPU it counts the products inside.
    graph = traced(function, *inputs)
    found = sum(num_flops(n) for n in graph.nodes if n.op == "call_function" and is_product(n))
    expected = counter.get_total_flops()
    assert found == (expected or 2 * 2 * 2 * 4 * 6 * 6 * 8)


def test_attention_on_the_cpu_counts_its_products() -> None:
    """Forward multiplies twice; backward five times, as it computes the scores again."""

    def function(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor) -> object:
        out, sums = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
        return backward(gradient, q, k, v, out, sums, 0.0, False)

    q, k = torch.ones(2, 4, 6, 8), torch.ones(2, 4, 10, 8)
    dag = dag_of(function, q, k, k, q)
    product = 2 * 2 * 4 * 6 * 10 * 8
    assert [node.flops for node in dag if node.flops] == [2 * product, 5 * product]


@pytest.mark.parametrize(
    ("function", "shapes", "flops"),
    [
        (torch.mv, [(3, 4), (4,)], 24),
        (torch.dot, [(5,), (5,)], 10),
        (torch.addmv, [(3,), (3, 4), (4,)], 24),
        (lambda x: x.sum(), [(3, 4)], 12),
        (lambda x: x.sin(), [(3, 4)], 12),
    ],
)
def test_flops_without_a_formula_of_torch(
    function: Callable[..., Tensor], shapes: list[tuple[int, ...]], flops: int
) -> None:
    assert only(function, *(torch.ones(shape) for shape in shapes)).flops == flops


@pytest.mark.parametrize(
    ("function", "dtype", "expected"),
    [
        (lambda x: x @ x, torch.bfloat16, "bfloat16"),
        (lambda x: x @ x, torch.float64, "float64"),
        (lambda x: x.sin(), torch.bfloat16, "float32"),
        (lambda x: x.sin(), torch.float64, "float64"),
        (lambda x: x.to(torch.float32), torch.bfloat16, "float32"),
    ],
)
def test_products_run_at_the_rate_of_what_they_multiply(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype, expected: str
) -> None:
    assert only(function, torch.ones(4, 4, dtype=dtype)).dtype == expected


INDEX = torch.tensor([1, 0, 2])


@pytest.mark.parametrize(
    ("function", "inputs", "traffic_bytes"),
    [
        # Three rows of the table, three indices, the result.
        (lambda i, w: F.embedding(i, w), [INDEX, torch.ones(1000, 4)], 3 * 16 + 3 * 8 + 3 * 16),
        (lambda x, i: x[i], [torch.ones(1000, 4), INDEX], 3 * 16 + 3 * 8 + 3 * 16),
        (lambda x, i: x.index_select(0, i), [torch.ones(9, 4), INDEX], 3 * 16 + 3 * 8 + 3 * 16),
        # The base of an expanded value, once.
        (lambda x: x.expand(100, 4).sin(), [torch.ones(4)], 16 + 1600),
        (lambda x: x[:, :2].sin(), [torch.ones(100, 100)], 2 * 800),
        (lambda x, y: torch.cat([x, y]), [torch.ones(3), torch.ones(5)], 2 * 32),
        # A copy of the base, then the rows.
        (
            lambda x, i, v: x.index_put([i], v),
            [torch.ones(1000, 4), INDEX, torch.ones(3, 4)],
            2 * 16_000 + 3 * 8 + 3 * 16,
        ),
        (
            lambda x, i, v: x.index_put_([i], v),
            [torch.ones(1000, 4), INDEX, torch.ones(3, 4)],
            2 * 3 * 16 + 3 * 8 + 3 * 16,
        ),
    ],
)
def test_traffic(function: Callable[..., Tensor], inputs: list[Tensor], traffic_bytes: int) -> None:
    nodes = [node for node in dag_of(function, *inputs) if node.num_launches]
    assert [node.traffic_bytes for node in nodes] == [traffic_bytes]


def test_views_and_elements_cost_nothing() -> None:
    dag = dag_of(lambda x: x.t().chunk(2)[1], torch.ones(4, 4))
    assert [(n.flops, n.traffic_bytes, n.num_launches) for n in dag] == [(0, 0, 0)] * len(dag)


def test_facts_of_nodes() -> None:
    dims = OpDims({}, ((),), (frozenset(),))

    def function(x: Tensor) -> Tensor:
        first: Tensor
        first, _ = torch.ops.aten.native_dropout(x, 0.5, True)
        return first

    graph = traced(function, torch.ones(3, 4))
    known = {"x_1": GraphInput("weight", NodeKind.STATE, needs_gradient=True)}
    dag = estimate_costs(graph, known, dims_of=lambda node: dims)
    weight, dropout, first, *_ = dag
    assert (weight.gradient_bytes, weight.num_launches, weight.shape) == (48, 0, (3, 4))
    assert (dropout.is_random, dropout.shape, dropout.dims) == (True, None, dims)
    assert (first.element, first.shape, first.is_output) == (0, (3, 4), True)


def test_elements_that_nothing_takes_are_workspace() -> None:
    graph = traced(lambda x: F.max_pool2d(x, 2), torch.ones(1, 1, 4, 4))
    graph.eliminate_dead_code()
    pool = node_of(graph, aten.max_pool2d_with_indices.default)
    # Four indices of eight bytes.
    assert estimate_costs(graph, {})[pool.name].workspace_bytes == 32


def test_caches_of_a_decoding_step() -> None:
    def step(keys: Tensor, values: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        keys, values = torch.cat([keys, q], 2), torch.cat([values, q], -2)
        return keys, values, F.scaled_dot_product_attention(q, keys, values)

    shapes = [(1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 1, 4)]
    dag = dag_of(step, *(torch.ones(shape) for shape in shapes))
    found = {node.name: node.cache_length for node in dag if node.cache_length}
    assert found == {"keys_1": 5, "values_1": 5, "cat": 6, "cat_1": 6}


def test_first_step_makes_caches() -> None:
    def step(x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = x.sin(), x.cos(), x.exp()
        return k, F.scaled_dot_product_attention(q, k, v), q

    dag = dag_of(step, torch.ones(1, 2, 5, 4))
    assert {node.name: node.cache_length for node in dag if node.cache_length} == {"cos": 5}
