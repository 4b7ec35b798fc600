"""Rows that are sorted, computed on and put back, in pieces that sort their own rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from fxdevice.costs import estimate_costs as cost_table
from fxdevice.dag import Dag, NodeKind
from fxdevice.dims import Layout
from fxdevice.op_dims import OWN_DIMS
from fxdevice.passes.sorted_rows import divide_sorted_rows
from fxdevice.placement import PlacementProblem
from fxdevice.placers.batch_division import Batch, divide_batch
from fxdevice.topology import Link, Slot, Topology
from tests.passes.test_divide_nodes import assert_same, dag_of, divided, traced

NUM_TOKENS, WIDTH, NUM_IDS, EACH = 12, 16, 4, 2
TOPOLOGY = Topology(tuple(Slot(i, f"cuda:{i}") for i in range(3)), Link(1e-6, 1e11))

Experts = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Rows [rows, width], their sorted ids and their ends -> rows."""


def inputs() -> list[Tensor]:
    """Return tokens, a router, and matrices and a row for every id."""
    torch.manual_seed(0)
    return [
        torch.randn(NUM_TOKENS, WIDTH),
        torch.randn(WIDTH, NUM_IDS),
        torch.randn(NUM_IDS, WIDTH, WIDTH),
        torch.randn(NUM_IDS, WIDTH),
    ]


def inverse_by_scatter(places: Tensor) -> Tensor:
    return torch.empty_like(places).index_put((places,), torch.arange(places.shape[0]))


def mixture(x: Tensor, router: Tensor, matrices: Tensor, bias: Tensor) -> Tensor:
    """Return each token's sum over its experts, as transformers computes it."""
    weights, chosen = (x @ router).softmax(-1).topk(EACH)
    ids, places = chosen.view(-1).sort()
    rows = x[places // EACH]
    ends = ids.float().histc(NUM_IDS, 0, NUM_IDS - 1).cumsum(0, dtype=torch.int32)
    # In bfloat16: the grouped product of fake tensors takes nothing else.
    y = torch._grouped_mm(rows.bfloat16(), matrices.bfloat16(), ends).float()
    first, second = (y + bias[ids]).chunk(2, dim=1)
    y = (first.sigmoid() * second) * weights.view(-1)[places].unsqueeze(-1)
    y = y[inverse_by_scatter(places)]
    return y.view(NUM_TOKENS, EACH, -1).sum(1).relu()


def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    result = mixture(*leaves)
    return (result, *torch.autograd.grad(result.square().sum(), leaves))


def scaled_by_id(x: Tensor, router: Tensor, _: Tensor, bias: Tensor) -> Tensor:
    """Return rows with what belongs to their ids, without products; added where they came from."""
    ids, places = (x @ router).argmax(-1).sort(stable=True)
    rows = x.index_select(0, places) * bias[ids]
    return torch.zeros_like(x).index_put((places,), rows, accumulate=True)


def changed_mixture(experts: Experts, *, descending: bool = False, each: int = EACH) -> Any:
    """Return a mixture that does something else with its sorted rows."""

    def function(x: Tensor, router: Tensor, *_: Tensor) -> Tensor:
        chosen = (x @ router).topk(EACH)[1]
        ids, places = chosen.view(-1).sort(descending=descending)
        counts = ids.float().histc(NUM_IDS, 0, NUM_IDS - 1)
        return experts(x[places // each], ids, counts)[inverse_by_scatter(places)]

    return function


CLOSED: dict[str, Callable[..., Any]] = {
    "mixture": mixture,
    "gradients": gradients,
    "scaled by id": scaled_by_id,
    "doubled": changed_mixture(lambda rows, ids, counts: 2 * rows),
}


def prepared(function: Callable[..., Any]) -> tuple[fx.GraphModule, Dag]:
    module = traced(function, inputs())
    module = fx.GraphModule(module, divide_sorted_rows(module.graph))
    return module, dag_of(module)


def problem_of(dag: Dag, pins: dict[str, int] | None = None) -> PlacementProblem:
    return PlacementProblem(dag, TOPOLOGY, cost_table(dag, TOPOLOGY), pins=pins or {})


def layouts(dag: Dag, shares: tuple[int, ...]) -> dict[str, Layout]:
    found = divide_batch(problem_of(dag), Batch(0, NUM_TOKENS), shares)
    slots = tuple(range(len(shares)))
    return {name: Layout(label, shares, slots) for name, label in found.label_of.items()}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("shares", [(6, 6), (3, 8, 1)])
def test_pieces_sort_their_own_rows(name: str, shares: tuple[int, ...]) -> None:
    module, dag = prepared(CLOSED[name])
    layout_of = layouts(dag, shares)
    assert len(dag.orders) == 1
    (members,) = dag.orders.values()
    assert set(members) <= layout_of.keys()
    undivided = {
        node.name
        for node in dag
        if node.kind is NodeKind.COMPUTE and node.flops > NUM_TOKENS and node.element is None
    } - layout_of.keys()
    # Constants, and what only the weights are in.
    assert all("grouped" not in one and "sort" not in one for one in undivided)
    # Sums of pieces are rounded in another order, in bfloat16 for the matrices.
    found, wanted = divided(module, dag, layout_of)(*inputs()), module(*inputs())
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    if name in ("scaled by id", "doubled"):
        assert_same(divided(module, dag, layout_of), module, inputs())


def test_without_the_order_the_pieces_are_wrong() -> None:
    """The comparison above would find it."""
    module, dag = prepared(mixture)
    layout_of = layouts(dag, (6, 6))
    pieces = divided(module, dag, layout_of)
    ends = [node for node in pieces.graph.nodes if node.name.startswith("cumsum")]
    ends[1].replace_all_uses_with(ends[0])
    pieces.recompile()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(pieces(*inputs()), module(*inputs()), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("change", ["one left out", "other shares", "copied"])
def test_layouts_of_an_order_that_differ_are_not_followed(change: str) -> None:
    module, dag = prepared(scaled_by_id)
    layout_of = layouts(dag, (6, 6))
    for name in next(iter(dag.orders.values())):
        changed = dict(layout_of)
        if change == "one left out":
            del changed[name]
        elif change == "other shares":
            changed[name] = Layout(layout_of[name].label, (4, 8), (0, 1))
        else:
            changed[name] = Layout.copied((0, 1))
        assert_same(divided(module, dag, changed), module, inputs())


def test_a_pinned_operation_keeps_the_whole_order_undivided() -> None:
    _, dag = prepared(mixture)
    (members,) = dag.orders.values()
    found = divide_batch(
        problem_of(dag, {members[len(members) // 2]: 0}), Batch(0, NUM_TOKENS), (6, 6)
    )
    assert not found.label_of.keys() & set(members)
    # What is before the sort is divided still.
    assert {"mm", "topk"} <= found.label_of.keys()
    assert found.barriers[0] == members[0]


def in_place_of_order(rows: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    return rows * torch.arange(rows.shape[0]).unsqueeze(-1)


def with_few_bins(rows: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    ends = ids.float().histc(NUM_IDS - 1, 0, NUM_IDS - 2).cumsum(0, dtype=torch.int32)
    matrices = torch.ones(NUM_IDS - 1, WIDTH, WIDTH, dtype=torch.bfloat16)
    return torch._grouped_mm(rows.bfloat16(), matrices, ends)


OPEN: dict[str, Callable[..., Any]] = {
    "rows by their new place": changed_mixture(in_place_of_order),
    "sum of the rows before": changed_mixture(lambda rows, ids, counts: rows.cumsum(0)),
    "reversed": changed_mixture(lambda rows, ids, counts: rows.flip(0)),
    "joined neighbours": changed_mixture(
        lambda rows, ids, counts: rows.view(-1, 2, WIDTH).cumsum(1).view(-1, WIDTH)
    ),
    "an id without a bin": changed_mixture(with_few_bins),
    "descending": changed_mixture(lambda rows, ids, counts: rows, descending=True),
    "places by something else": changed_mixture(lambda rows, ids, counts: rows, each=3),
    "given ids": lambda x, router, matrices, bias: torch._grouped_mm(
        x.bfloat16()[(order := x[:, 0].long().sort())[1]],
        matrices.bfloat16(),
        order[0].float().histc(NUM_IDS, 0, NUM_IDS - 1).cumsum(0, dtype=torch.int32),
    )[inverse_by_scatter(order[1])],
    "order returned": lambda x, router, matrices, bias: x[:, 0].sort()[1],
    "only sorted": lambda x, router, matrices, bias: x[:, 0].sort()[0] * 2,
}


@pytest.mark.parametrize("name", OPEN)
def test_an_order_that_is_seen_is_not_divided(name: str) -> None:
    module, dag = prepared(OPEN[name])
    assert not dag.orders
    assert not any(OWN_DIMS in node.meta for node in module.graph.nodes)


def test_counts_may_be_used_otherwise() -> None:
    """Such as for a loss that balances the experts: they are sums over all pieces."""

    def function(x: Tensor, router: Tensor, *_: Tensor) -> Sequence[Tensor]:
        ids, places = (x @ router).argmax(-1).sort()
        counts = ids.float().histc(NUM_IDS, 0, NUM_IDS - 1)
        return x[places][inverse_by_scatter(places)] * 2, counts.square().sum()

    module, dag = prepared(function)
    layout_of = layouts(dag, (4, 8))
    assert dag.orders
    assert set(next(iter(dag.orders.values()))) <= layout_of.keys()
    assert_same(divided(module, dag, layout_of), module, inputs())
