"""Properties of `insert_transfers` on random graphs and placements, and small examples."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx

from fxdevice.dump import dump
from fxdevice.op_kinds import has_tensor_value, is_storage_view, view_base
from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.insert_transfers import insert_transfers, is_recomputable
from fxdevice.placed_graph import PlacedGraph, PlacedSlot
from fxdevice.sizes import content_bytes
from fxdevice.transfer_op import is_transfer, transfer_source
from fxdevice.verify import NodeFaultError, verify
from tests.graph_strategies import SIM_SLOTS, VIEW_OPERATIONS, Case, cases, run_placed
from tests.small_graphs import placed_graph


@settings(max_examples=100)
@given(cases())
def test_placed_equals_unplaced(case: Case) -> None:
    before = dump(case.placed)
    placed = insert_transfers(case.placed)
    assert dump(case.placed) == before
    assert dump(insert_transfers(placed)) == dump(placed)
    assigned = assign_devices(placed)
    verify(assigned)
    inputs = case.program.inputs()
    for found, expected in zip(run_placed(assigned, inputs), case.program(*inputs), strict=True):
        assert torch.equal(found.cpu(), expected)


def least_bytes(placed: PlacedGraph) -> int | None:
    """Returns the fewest bytes that the transfers of a finished graph could move, by trying all.

    A finished graph shows where operations run and what they read. Views and generators may be
    made anywhere that computes, from what is there, and views of what the caller keeps outside of
    the slots there. None where there are too many choices.
    """
    origin: dict[fx.Node, fx.Node] = {}
    for node in placed.graph.nodes:
        origin[node] = origin[transfer_source(node)] if is_transfer(node) else node
    twin = {n.name: n for n in placed.graph.nodes}
    free = {n for n in placed.graph.nodes if is_recomputable(n) or n.op == "get_attr"}
    base: dict[fx.Node, fx.Node] = {}
    for node in placed.graph.nodes:
        origin[node] = (
            twin[origin[node].name.split("_on")[0]] if "_on" in node.name else origin[node]
        )
        found = None if is_storage_view(node) else view_base(node)
        if found is not None:
            base[origin[node]] = origin[found]
    wants: set[tuple[fx.Node, torch.device]] = set()
    for node in placed.graph.nodes:
        if node.op == "output" or is_transfer(node) or node in base or origin[node] in base:
            continue
        wants |= {
            (origin[read], placed.slot_of(node).device)
            for read in node.all_input_nodes
            if node not in free and has_tensor_value(read)
        }
    for value in placed.outputs():
        if isinstance(value, fx.Node) and has_tensor_value(value):
            wants.add((origin[value], placed.slot_of(value).device))
    computing = {slot.device for slot in placed.slots if slot.computes}
    origins = set(origin.values())

    def exists(node: fx.Node, device: torch.device, moved: set[object]) -> bool:
        if (node, device) in moved:
            return True
        if node in free:
            return device in computing
        if node in base:
            return exists(base[node], device, moved if device in computing else set())
        return placed.slot_of(node).device == device

    candidates = [
        (node, device)
        for node in origins
        if has_tensor_value(node) and node.op != "output"
        for device in {slot.device for slot in placed.slots}
        if not exists(node, device, set())
    ]
    if len(candidates) > 12:
        return None
    best: int | None = None
    for size in range(len(candidates) + 1):
        for chosen in itertools.combinations(candidates, size):
            num_bytes = sum(content_bytes(node.meta["val"]) for node, _ in chosen)
            if (best is None or num_bytes < best) and all(
                exists(node, device, set(chosen)) for node, device in wants
            ):
                best = num_bytes
    return best


OUTSIDE = (SIM_SLOTS[0], PlacedSlot(1, torch.device("cpu"), computes=False))


@pytest.mark.parametrize("slots", [SIM_SLOTS[:2], OUTSIDE], ids=["two slots", "one and the caller"])
def test_no_choice_of_transfers_moves_fewer_bytes(slots: tuple[PlacedSlot, ...]) -> None:
    num_compared, num_views_moved = 0, 0

    @settings(max_examples=150)
    @given(cases(slots, 2, VIEW_OPERATIONS, "fake"))
    def compare(case: Case) -> None:
        nonlocal num_compared, num_views_moved
        placed = insert_transfers(case.placed)
        best = least_bytes(placed)
        if best is not None:
            moved = [transfer_source(n) for n in placed.graph.nodes if is_transfer(n)]
            assert sum(content_bytes(n.meta["val"]) for n in moved) == best
            num_compared += 1
            num_views_moved += any(view_base(n) is not None for n in moved)

    compare()
    assert num_compared >= 50
    assert num_views_moved >= 5


def transfers(placed: PlacedGraph) -> list[str]:
    return [node.name for node in insert_transfers(placed).graph.nodes if is_transfer(node)]


X = torch.randn(6, 6)


def test_readers_on_a_device_share_one_transfer() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.neg()
        return h.sin(), h.cos()

    placed = placed_graph(function, (X,), {"x_1": 0, "sin": 1, "cos": 1}, (None, None))
    assert transfers(placed) == ["neg_to1"]


def test_a_slice_moves_only_the_slice() -> None:
    placed = placed_graph(
        lambda x: x.neg()[:2].sin(), (X,), {"x_1": 0, "slice_1": 1, "sin": 1}, (None,)
    )
    assert transfers(placed) == ["slice_1_to1"]


def test_slices_that_make_up_their_base_move_as_the_base() -> None:
    def function(x: Tensor) -> Tensor:
        left, right = torch.split(x.neg(), 3, dim=1)
        product: Tensor = left * right
        return product

    placed = placed_graph(function, (X,), {"x_1": 0, "mul": 1}, (None,))
    assert transfers(placed) == ["neg_to1"]


def test_an_expanded_value_moves_as_its_base() -> None:
    def function(x: Tensor) -> Tensor:
        return x.sum(dim=0, keepdim=True).expand(6, 6).sin()

    placed = placed_graph(function, (X,), {"x_1": 0, "sin": 1}, (None,))
    assert transfers(placed) == ["sum_1_to1"]


def test_a_generator_is_made_on_both_devices() -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.arange(6) < 3
        return x * mask, y + mask

    placed = placed_graph(function, (X, X + 1), {"x_1": 0, "y_1": 1, "add": 1}, (None, None))
    names = [n.name for n in insert_transfers(placed).graph.nodes if n.op == "call_function"]
    assert names == ["arange", "arange_on1", "lt", "lt_on1", "mul", "add"]


def test_random_values_are_moved() -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.rand(6)

    placed = placed_graph(function, (X,), {"x_1": 1, "add": 1}, (None,))
    assert transfers(placed) == ["rand_to1"]


def test_a_value_that_costs_more_than_its_transfer_is_moved() -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.ones(512, 512)[:1, :6].sin()

    placed = placed_graph(function, (X,), {"x_1": 1, "add": 1}, (None,))
    assert transfers(placed) == ["sin_to1"]


def test_as_strided_runs_where_the_storage_is() -> None:
    def function(x: Tensor) -> Tensor:
        # Reads 36 elements behind a slice of 6: moving the slice would be cheapest, and wrong.
        return torch.as_strided(x.neg()[5:], (6, 6), (6, 1), 0).sin()

    placed = placed_graph(function, (X,), {"x_1": 0, "as_strided": 1, "sin": 1}, (None,))
    assert transfers(placed) == ["as_strided_to1"]


def test_as_strided_of_an_input_with_an_offset_is_refused() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.as_strided(x, (2, 2), (1, 6), 3).sin()

    placed = placed_graph(function, (X[1:],), {}, (None,))
    with pytest.raises(NodeFaultError, match="'as_strided' reads storage at offset 3"):
        insert_transfers(placed)
