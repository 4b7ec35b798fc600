"""Makes every crossing of devices an explicit transfer node.

After the pass no operation reads a value from another device, except transfers. A slice arrives
without the gaps between its rows, so that it takes no more memory than it has elements. A value is
transferred to a device once, by one node right after the value, and all readers there share it;
what is not tensors (sizes, symbols) crosses freely. `plan_transfers` decides what moves,
`recompute` what is made again instead.

Views, `getitem` and readers of sizes have no place of their own: the pass puts them where the value
is that they read. So does `as_strided`, which reads the memory behind its input and is therefore
never rebuilt on another device: its result moves.

    slot 0 | h = mm(x, w)                     slot 0 | h = mm(x, w)
    slot 1 | u = neg(h)              ->       slot 1 | h_to1 = transfer(h, device 1)
    slot 1 | v = cat([u, h])                  slot 1 | u = neg(h_to1)
                                              slot 1 | v = cat([u, h_to1])
"""

from __future__ import annotations

import contextlib
import dataclasses

import torch
from torch import fx

from fxdevice.op_kinds import (
    has_tensor_value,
    is_getitem,
    is_operator,
    is_storage_view,
    view_base,
)
from fxdevice.passes.plan_transfers import TransferPlan, plan_transfers
from fxdevice.passes.recompute import is_recomputable
from fxdevice.placed_graph import NodeInfo, PlacedGraph, node_info, set_node_info
from fxdevice.sizes import has_gaps, same_sizes
from fxdevice.transfer_op import is_transfer, transfer_node, transfer_source
from fxdevice.verify import NodeFaultError

__all__ = ["insert_transfers", "is_recomputable"]

_MOVED = "with the value that it reads, or made again for its reader"


def insert_transfers(placed: PlacedGraph) -> PlacedGraph:
    """Returns `placed` with all the transfers that it needs, and no others.

    Transfers that are there already are taken out and decided anew, so the pass is idempotent. An
    element of the output tuple ends on its `output_slots`; one with None stays where it is.

    Args:
        placed: A functional graph: no node writes into an argument. It is not changed.

    Raises:
        NodeFaultError: `as_strided` reads an input of the graph at an offset that is lost when
            the input is transferred.
    """
    bare = _without_transfers(placed)
    return _Writer(bare, plan_transfers(bare)).write()


def _without_transfers(placed: PlacedGraph) -> PlacedGraph:
    """Returns a copy of `placed` whose nodes read across devices again."""
    bare = placed.copy()
    for node in list(bare.graph.nodes):
        if is_transfer(node):
            node.replace_all_uses_with(transfer_source(node))
            bare.graph.erase_node(node)
    return bare


class _Writer:
    """Writes the graph that a plan describes."""

    def __init__(self, bare: PlacedGraph, plan: TransferPlan) -> None:
        self.bare = bare
        self.plan = plan
        self.graph = fx.Graph(bare.graph.owning_module)
        self.names = {node.name for node in bare.graph.nodes}
        self.made: dict[fx.Node, dict[torch.device, fx.Node]] = {}
        values = (node.meta.get("val") for node in bare.graph.nodes)
        modes = (getattr(value, "fake_mode", None) for value in values)
        self.mode = next((mode for mode in modes if mode), contextlib.nullcontext())
        # New nodes whose values have other strides than those that they stand for.
        self.restrided: set[fx.Node] = set()

    def write(self) -> PlacedGraph:
        for node in self.bare.graph.nodes:
            if node.op == "output":
                self.write_output(node)
                continue
            self.made[node] = {}
            for slot in self.plan.versions[node]:
                self.write_version(node, slot)
            for slot in self.plan.transfers.get(node, ()):
                self.write_transfer(node, slot)
        return dataclasses.replace(self.bare, graph=self.graph)

    def write_version(self, node: fx.Node, slot: int) -> None:
        self.check_storage_view(node, slot)
        name = node.name if not self.made[node] else self.free_name(f"{node.name}_on{slot}")
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs), lambda read: self.value_on(read, slot)
        )
        copied = self.graph.create_node(node.op, node.target, args, kwargs, name, node.type)
        copied.meta = dict(node.meta)
        self.update_value(node, copied)
        info = node_info(node)
        assert info is not None
        if info.slot != slot:
            set_node_info(copied, dataclasses.replace(info, slot=slot, reason=_MOVED))
        self.made[node][self.device(slot)] = copied

    def write_transfer(self, node: fx.Node, slot: int) -> None:
        source = self.made[node][self.device(self.plan.home[node])]
        device = self.device(slot)
        is_packed = self.bare.slots[slot].computes and _arrives_packed(node)
        name = self.free_name(f"{node.name}_to{slot}")
        via_host = (self.device(self.plan.home[node]), device) in self.bare.via_host
        moved = transfer_node(
            self.graph, source, device, name, is_packed=is_packed, via_host=via_host
        )
        if is_packed:
            self.restrided.add(moved)
        set_node_info(moved, NodeInfo(slot, "transfer"))
        self.made[node][device] = moved

    def write_output(self, node: fx.Node) -> None:
        ends = []
        for value, slot in zip(self.bare.outputs(), self.bare.output_slots, strict=True):
            if isinstance(value, fx.Node):
                value = self.value_on(value, self.plan.home[value] if slot is None else slot)
            ends.append(value)
        found = node.args[0]
        if isinstance(found, (tuple, list)):
            output = self.graph.output(type(found)(ends))
        else:
            output = self.graph.output(ends[0])
        output.meta = dict(node.meta)

    def update_value(self, node: fx.Node, copied: fx.Node) -> None:
        """Gives `copied` a new fake value where it reads what has other strides than before."""
        if self.restrided.isdisjoint(copied.all_input_nodes) or not _is_pure(node):
            return
        value = node.meta["val"]
        args, kwargs = fx.map_arg((copied.args, copied.kwargs), lambda read: read.meta["val"])
        with torch.no_grad(), self.mode:
            copied.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
        if not has_tensor_value(node) or not same_sizes(
            value.stride(), copied.meta["val"].stride()
        ):
            self.restrided.add(copied)

    def value_on(self, node: fx.Node, slot: int) -> fx.Node:
        """Returns the node that stands for `node` on the device of `slot`.

        What is no tensor, and what a plan leaves where it is (the verifier names it), is the same
        on every device.
        """
        versions = self.made[node]
        return versions.get(self.device(slot)) or next(iter(versions.values()))

    def device(self, slot: int) -> torch.device:
        return self.bare.slots[slot].device

    def free_name(self, name: str) -> str:
        """Returns `name`, or the first of `name`_1, `name`_2, ... that no node has."""
        candidate, number = name, 0
        while candidate in self.names:
            number += 1
            candidate = f"{name}_{number}"
        self.names.add(candidate)
        return candidate

    def check_storage_view(self, node: fx.Node, slot: int) -> None:
        if not is_storage_view(node):
            return
        root = node.all_input_nodes[0]
        while (base := view_base(root)) is not None:
            root = base
        offset = node.kwargs.get("storage_offset", node.args[3] if len(node.args) > 3 else None)
        moves = self.device(self.plan.home[root]) != self.device(slot)
        if moves and offset is not None and has_tensor_value(root):
            lost = root.meta["val"].storage_offset()
            if not isinstance(lost, int) or lost != 0:
                raise NodeFaultError(
                    f"node {node.name!r} reads storage at offset {offset}, counted from the start "
                    f"of the storage of {root.name!r}; expected an input that starts there, found "
                    f"one that starts at {lost}. Pass a clone of that input.",
                    node.name,
                )


def _arrives_packed(node: fx.Node) -> bool:
    """Returns whether the value of `node` arrives elsewhere without the gaps that it has.

    Only views do: what the caller gives may be read by its place in memory.
    """
    if view_base(node) is None or any(is_storage_view(user) for user in node.users):
        return False
    return has_gaps(node.meta["val"])


def _is_pure(node: fx.Node) -> bool:
    """Returns whether the value of `node` follows from its arguments' sizes and strides."""
    if not is_operator(node.target):
        return is_getitem(node)
    tags = node.target.tags
    return torch.Tag.data_dependent_output not in tags and (
        torch.Tag.dynamic_output_shape not in tags
    )
