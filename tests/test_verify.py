"""The verifier accepts what the passes make and refuses each way of breaking it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import fx

from fxdevice.dump import dump
from fxdevice.errors import VerificationError
from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.placed_graph import NodeInfo, PlacedGraph, set_node_info
from fxdevice.transfer_op import transfer_node
from fxdevice.verify import verify
from tests.small_graphs import two_stages


def legal() -> PlacedGraph:
    return assign_devices(insert_transfers(two_stages()))


def node(placed: PlacedGraph, name: str) -> fx.Node:
    found: fx.Node = next(node for node in placed.graph.nodes if node.name == name)
    return found


def drop_transfer(placed: PlacedGraph) -> None:
    moved = node(placed, "mm_to1")
    moved.replace_all_uses_with(node(placed, "mm"))
    placed.graph.erase_node(moved)


def retarget_transfer(placed: PlacedGraph) -> None:
    moved = node(placed, "mm_to1")
    moved.args = (moved.args[0], torch.device("cuda", 0))


def retarget_transfer_and_slot(placed: PlacedGraph) -> None:
    retarget_transfer(placed)
    set_node_info(node(placed, "mm_to1"), NodeInfo(0))


def send_via_host(placed: PlacedGraph) -> None:
    moved = node(placed, "mm_to1")
    moved.args = (*moved.args[:2], False, True)


def add_transfer(placed: PlacedGraph, source: str, slot: int, *, used_by: str | None) -> None:
    after = node(placed, source)
    with placed.graph.inserting_after(after):
        moved = transfer_node(placed.graph, after, placed.slots[slot].device, "extra")
    set_node_info(moved, NodeInfo(slot))
    if used_by is not None:
        node(placed, used_by).replace_input_with(after, moved)


def repeat_transfer(placed: PlacedGraph) -> None:
    add_transfer(placed, "mm", 1, used_by=None)
    node(placed, "neg").replace_input_with(node(placed, "mm_to1"), node(placed, "extra"))


def chain_transfers(placed: PlacedGraph) -> None:
    add_transfer(placed, "mm_to1", 0, used_by=None)
    node(placed, "t").replace_input_with(node(placed, "mm"), node(placed, "extra"))


def leave_output(placed: PlacedGraph) -> None:
    moved = node(placed, "add_to2")
    moved.replace_all_uses_with(node(placed, "add"))
    placed.graph.erase_node(moved)


def write_argument(placed: PlacedGraph) -> None:
    node(placed, "neg").target = torch.ops.aten.neg_.default


def forget_slot(placed: PlacedGraph) -> None:
    del node(placed, "neg").meta["fxdevice"]


def forget_value(placed: PlacedGraph) -> None:
    del node(placed, "neg").meta["val"]


def change_literal(placed: PlacedGraph, **kwargs: object) -> None:
    arange = node(placed, "arange")
    arange.kwargs = {**arange.kwargs, **kwargs}  # type: ignore[dict-item]


MUTANTS: dict[str, tuple[Callable[[PlacedGraph], None], str]] = {
    "drop a transfer": (drop_transfer, "'where' is on slot 1 .* reads 'mm' on slot 0"),
    "retarget a transfer": (retarget_transfer, "'mm_to1' .* moves to cuda:0"),
    "transfer through the host for nothing": (
        send_via_host,
        "'mm_to1' does not move 'mm' directly",
    ),
    "transfer to where it is": (retarget_transfer_and_slot, "'where' is on slot 1"),
    "transfer within a device": (
        lambda placed: add_transfer(placed, "mm", 0, used_by="t"),
        "'extra' moves 'mm' to where it is",
    ),
    "unused transfer": (
        lambda placed: add_transfer(placed, "mm", 2, used_by=None),
        "'extra' has no reader",
    ),
    "repeated transfer": (repeat_transfer, "repeats"),
    "chain of transfers": (chain_transfers, "'extra' moves the transfer 'mm_to1'"),
    "move a node": (
        lambda placed: set_node_info(node(placed, "neg"), NodeInfo(0)),
        "'neg' is on slot 0",
    ),
    "compute for the caller": (
        lambda placed: set_node_info(node(placed, "neg"), NodeInfo(2)),
        "'neg' is on slot 2 .*expected a slot that computes",
    ),
    "no such slot": (
        lambda placed: set_node_info(node(placed, "neg"), NodeInfo(7)),
        "'neg' is on slot 7",
    ),
    "no slot": (forget_slot, "'neg' has no slot"),
    "no fake value": (forget_value, "'neg' has no fake value"),
    "output elsewhere": (leave_output, "'add' is output 0 and ends on slot 1"),
    "write an argument": (write_argument, "'neg' writes into an argument"),
    "wrong device literal": (
        lambda placed: change_literal(placed, device=torch.device("cuda", 0)),
        "'arange' is on slot 1 .* names cuda:0",
    ),
    "no device literal": (lambda placed: change_literal(placed, device=None), "names None"),
}


def test_the_passes_make_a_legal_graph() -> None:
    verify(legal())


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_refused(name: str) -> None:
    mutate, message = MUTANTS[name]
    placed = legal()
    mutate(placed)
    with pytest.raises(VerificationError, match=message):
        verify(placed)


def test_a_transfer_must_be_staged_where_direct_copies_are_damaged() -> None:
    pair = (torch.device("cuda", 0), torch.device("cuda", 1))
    with pytest.raises(VerificationError, match="'mm_to1' does not move 'mm' through the host"):
        verify(dataclasses.replace(legal(), via_host=frozenset({pair})))
    placed = assign_devices(
        insert_transfers(dataclasses.replace(two_stages(), via_host=frozenset({pair})))
    )
    verify(placed)
    assert "mm_to1: f32[3, 3] = transfer(mm, via host)" in dump(placed)
    assert "add_to2: f32[2, 3] = transfer(add)" in dump(placed)


def test_an_assertion_needs_no_fake_value() -> None:
    placed = legal()
    read = node(placed, "neg")
    with placed.graph.inserting_after(read):
        check = placed.graph.call_function(torch.ops.aten._assert_async.default, (read,))
    set_node_info(check, NodeInfo(1))
    assert "val" not in check.meta
    verify(placed)


def test_the_devices_are_not_assigned_yet() -> None:
    with pytest.raises(VerificationError, match="names cpu"):
        verify(insert_transfers(two_stages()))


def test_an_output_slot_for_every_output() -> None:
    placed = dataclasses.replace(legal(), output_slots=(2,))
    with pytest.raises(VerificationError, match="2 outputs and 1 output slots"):
        verify(placed)


def test_a_fault_names_the_line_of_the_user() -> None:
    placed = legal()
    neg = node(placed, "neg")
    neg.meta["stack_trace"] = 'File "/home/me/model.py", line 12, in forward\n    return h.neg()\n'
    set_node_info(neg, NodeInfo(0))
    with pytest.raises(VerificationError, match=r"model\.py:12 return h\.neg\(\)"):
        verify(placed)
