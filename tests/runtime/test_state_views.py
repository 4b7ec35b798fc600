"""Transfers of state read the state, and send the same as before."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from torch import Tensor

from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.passes.partition import partition
from fxdevice.placed_graph import PlacedGraph
from fxdevice.runtime.executor import SerialExecutor
from fxdevice.runtime.inner import make_inner
from fxdevice.runtime.lower import lower
from fxdevice.runtime.state_views import with_state_views
from fxdevice.transfer_op import is_transfer, transfer_source
from tests.graph_strategies import VIEW_OPERATIONS, Case, cases
from tests.runtime.lowered import on_their_devices, prepared
from tests.small_graphs import placed_graph


def halves() -> PlacedGraph:
    """Each slot reads one half of `w`, which is on slot 0."""

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return x @ w[:2].t(), x @ w[2:].t()

    slot_of = {"w_1": 0, "slice_2": 1, "t_1": 1, "mm_1": 1}
    inputs = torch.randn(5, 3), torch.randn(4, 3)
    return assign_devices(insert_transfers(placed_graph(function, inputs, slot_of, (None, None))))


def test_a_view_is_taken_by_the_transfer_that_sends_it() -> None:
    placed = halves()
    running, views = with_state_views(placed, {"w_1": "layer.weight"})
    ((name, view),) = views.items()
    assert view.state == "layer.weight"
    w = torch.randn(4, 3)
    assert torch.equal(view.of(w), w[2:])
    (transfer,) = (node for node in running.graph.nodes if node.name == name)
    assert transfer_source(transfer).name == "w_1"
    # The view of the other half is computed on its slot, this one nowhere.
    before, after = ({node.name for node in each.graph.nodes} for each in (placed, running))
    assert before - after == {"slice_2"}
    running.graph.lint()


def test_equal_views_have_equal_keys_and_others_have_not() -> None:
    def key(stop: int, state: str | None = "w") -> str:
        def function(x: Tensor, w: Tensor) -> Tensor:
            return x @ w[:stop]

        slot_of = {"w_1": 0, "slice_1": 1, "mm": 1}
        inputs = torch.randn(5, stop), torch.randn(4, 3)
        placed = insert_transfers(placed_graph(function, inputs, slot_of, (None,)))
        _, views = with_state_views(placed, {"w_1": state})
        ((_, view),) = views.items()
        return view.key

    assert key(2) == key(2, None)
    assert key(2) != key(3)


def test_only_state_and_its_views_count() -> None:
    placed = halves()
    assert with_state_views(placed, {}) == (placed, {})
    _, views = with_state_views(placed, {"x_1": "x"})
    sources = {
        node.name: transfer_source(node).name for node in placed.graph.nodes if is_transfer(node)
    }
    assert {sources[name] for name in views} == {"x_1"}


@settings(max_examples=40)
@given(cases(operations=VIEW_OPERATIONS))
def test_a_program_with_kept_copies_equals_the_function(case: Case) -> None:
    """In the first call, in one that finds its copies, and after every input has changed."""
    placed, _ = prepared(case)
    state = {node.name: node.name for node in placed.graph.find_nodes(op="placeholder")}
    running, views = with_state_views(placed, state)
    inner = make_inner("eager", torch.device("cpu"))
    program = lower(running, partition(running), inner, label="forward", state_views=views)
    executor, inputs = SerialExecutor(program), on_their_devices(case)
    for change in (0.0, 0.0, 1.0):
        if change:
            for value in inputs:
                value.add_(change)
        outputs = executor(list(inputs))
        expected = case.program(*(value.cpu() for value in inputs))
        for output, value in zip(outputs, expected, strict=True):
            assert torch.equal(output.cpu(), value)
