"""The invariants of a placed graph, one function each.

A violation is a fault of fxdevice, never of the model; it is raised as a `VerificationError` that
names the node, the slots and the line of the user's program.

    check_placed            every node has a slot, and a fake value where it computes
    check_functional        no operation writes into an argument
    check_computing_slots   operations other than views are on slots that compute
    check_devices           an operation reads values of its own device only, transfers excepted
    check_transfers         transfers end on their slot, are used, needed, one per destination, and
                            go through the host's memory exactly where direct copies are damaged
    check_outputs           every output ends on the device that it must end on
    check_device_literals   every device that is written is that of the slot (`assign_devices`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import fx

from fxdevice.device_literals import attribute, body_devices, named_devices
from fxdevice.errors import VerificationError
from fxdevice.op_kinds import (
    has_tensor_value,
    is_mutating,
    is_operator,
    is_storage_view,
    is_tuple_value,
    view_base,
)
from fxdevice.placed_graph import PlacedGraph, PlacedSlot, node_info
from fxdevice.source_line import source_line
from fxdevice.transfer_op import (
    is_transfer,
    transfer_destination,
    transfer_is_via_host,
    transfer_source,
)

__all__ = [
    "INVARIANTS",
    "NodeFaultError",
    "check_computing_slots",
    "check_device_literals",
    "check_devices",
    "check_functional",
    "check_outputs",
    "check_placed",
    "check_transfers",
    "verify",
]


class NodeFaultError(VerificationError):
    """An invariant does not hold at one node.

    Attributes:
        node: Name of the node.
    """

    def __init__(self, message: str, node: str) -> None:
        """Makes the error about `node`."""
        super().__init__(message)
        self.node = node


def verify(placed: PlacedGraph) -> None:
    """Checks every invariant of a graph that is ready to be partitioned.

    Raises:
        VerificationError: One of them does not hold.
    """
    placed.graph.lint()
    for check in INVARIANTS:
        check(placed)


def check_placed(placed: PlacedGraph) -> None:
    """Checks that every node has one of the slots, and a fake value where it computes.

    Raises:
        VerificationError: A node has not.
    """
    for index, slot in enumerate(placed.slots):
        if slot.index != index:
            raise VerificationError(f"slot {slot} is at position {index}; expected {slot.index}")
    if len(placed.output_slots) != len(placed.outputs()):
        raise VerificationError(
            f"the graph has {len(placed.outputs())} outputs and {len(placed.output_slots)} "
            "output slots; expected as many"
        )
    for node in placed.graph.nodes:
        if node.op == "output":
            continue
        info = node_info(node)
        if info is None:
            raise _fault(node, "has no slot", "a slot for every node")
        if not 0 <= info.slot < len(placed.slots):
            raise _fault(node, f"is on slot {info.slot}", f"one of {len(placed.slots)} slots")
        if node.op == "call_function" and "val" not in node.meta and _returns_something(node):
            raise _fault(node, "has no fake value", "one on every operation")


def check_functional(placed: PlacedGraph) -> None:
    """Checks that no operation writes into an argument: it could be a transferred copy.

    Raises:
        VerificationError: One does.
    """
    for node in placed.graph.nodes:
        if is_mutating(node):
            raise _fault(node, "writes into an argument", "a functionalized graph")


def check_computing_slots(placed: PlacedGraph) -> None:
    """Checks that operations are on slots that compute; views and transfers may be on any slot.

    Raises:
        VerificationError: One is on a caller slot.
    """
    for node in placed.graph.nodes:
        is_view = view_base(node) is not None and not is_storage_view(node)
        if node.op in ("call_function", "get_attr") and not (is_view or is_transfer(node)):
            slot = placed.slot_of(node)
            if not slot.computes:
                raise _fault(node, f"is on {_text(slot)}", "a slot that computes")


def check_devices(placed: PlacedGraph) -> None:
    """Checks that no operation mixes devices.

    Raises:
        VerificationError: One reads a tensor of another device.
    """
    for node in placed.graph.nodes:
        if node.op == "output" or is_transfer(node):
            continue
        slot = placed.slot_of(node)
        for read in node.all_input_nodes:
            source = placed.slot_of(read)
            if _holds_tensors(read) and source.device != slot.device:
                raise _fault(
                    node,
                    f"is on {_text(slot)} and reads {read.name!r} on {_text(source)}",
                    "a transfer between them",
                )


def check_transfers(placed: PlacedGraph) -> None:
    """Checks that every transfer ends on its slot, is used, needed, the only one, and goes its way.

    Raises:
        VerificationError: One does or is not.
    """
    found: dict[tuple[fx.Node, torch.device], fx.Node] = {}
    for node in filter(is_transfer, placed.graph.nodes):
        slot, source = placed.slot_of(node), transfer_source(node)
        destination = transfer_destination(node)
        if destination != slot.device:
            raise _fault(node, f"is on {_text(slot)}, moves to {destination}", "the slot's device")
        if is_transfer(source):
            raise _fault(node, f"moves the transfer {source.name!r}", "a transfer from the source")
        if not has_tensor_value(source):
            raise _fault(node, f"moves {source.name!r}, not a tensor", "tensors only")
        if placed.slot_of(source).device == destination:
            raise _fault(node, f"moves {source.name!r} to where it is", "no transfer")
        via_host = (placed.slot_of(source).device, destination) in placed.via_host
        if transfer_is_via_host(node) != via_host:
            way = "through the host's memory" if via_host else "directly"
            raise _fault(node, f"does not move {source.name!r} {way}", f"a transfer {way}")
        if not node.users:
            raise _fault(node, "has no reader", "a transfer that is used")
        twin = found.setdefault((source, destination), node)
        if twin is not node:
            raise _fault(node, f"repeats {twin.name!r}", "one transfer for a destination")


def check_outputs(placed: PlacedGraph) -> None:
    """Checks that every output is on the device of its output slot.

    Raises:
        VerificationError: One is elsewhere, such as a gradient away from its parameter.
    """
    for index, (value, wanted) in enumerate(
        zip(placed.outputs(), placed.output_slots, strict=True)
    ):
        if wanted is None or not isinstance(value, fx.Node) or not _holds_tensors(value):
            continue
        slot = placed.slot_of(value)
        if slot.device != placed.slots[wanted].device:
            raise _fault(
                value,
                f"is output {index} and ends on {_text(slot)}",
                f"{_text(placed.slots[wanted])}",
            )


def check_device_literals(placed: PlacedGraph) -> None:
    """Checks that every device in arguments and bodies is that of the node's slot.

    Raises:
        VerificationError: One is another, or a creation names none.
    """
    for node in placed.graph.nodes:
        if node.op != "call_function" or is_transfer(node):
            continue
        slot = placed.slot_of(node)
        for device in _all_devices(placed, node):
            if device != slot.device:
                raise _fault(node, f"is on {_text(slot)} and names {device}", str(slot.device))


INVARIANTS: tuple[Callable[[PlacedGraph], None], ...] = (
    check_placed,
    check_functional,
    check_computing_slots,
    check_devices,
    check_transfers,
    check_outputs,
    check_device_literals,
)
"""What `verify` checks, in its order: a check may rely on those before it."""


def _all_devices(placed: PlacedGraph, node: fx.Node) -> Iterator[object]:
    """Yields the devices in the arguments of `node` and in the bodies that it calls."""
    yield from named_devices(node)
    for read in node.all_input_nodes:
        if read.op == "get_attr" and not has_tensor_value(read):
            body = attribute(placed.root, str(read.target))
            if isinstance(body, fx.GraphModule):
                yield from body_devices(body)


def _returns_something(node: fx.Node) -> bool:
    """Returns whether the operation has a result; an assertion has none."""
    target = node.target
    return len(target._schema.returns) > 0 if is_operator(target) else True


def _holds_tensors(node: fx.Node) -> bool:
    return has_tensor_value(node) or is_tuple_value(node)


def _text(slot: PlacedSlot) -> str:
    return f"slot {slot.index} ({slot.device}{'' if slot.computes else ', caller'})"


def _fault(node: fx.Node, found: str, expected: str) -> NodeFaultError:
    where = source_line(node) or "unknown line"
    message = (
        f"node {node.name!r} {found}; expected {expected}. Traced from: {where}. "
        "This is a fault of fxdevice: please report it."
    )
    return NodeFaultError(message, node.name)
