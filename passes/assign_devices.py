"""Gives every device that is written in a graph its slot's device.

A traced graph names the device that it was traced for: in `arange(..., device=cpu)`, in the bodies
of `cond` and `while_loop`, in constants of such bodies. After this pass a node names the device of
its slot, and a creation that named none names it too, so that a partition can run there.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import fx, nn

from fxdevice.device_literals import attribute, body_devices
from fxdevice.op_kinds import argument_is_device, has_tensor_value, is_operator
from fxdevice.placed_graph import NodeInfo, PlacedGraph, set_node_info
from fxdevice.staging import DevicePairs, moved_to
from fxdevice.transfer_op import is_transfer

__all__ = ["assign_devices", "with_attributes"]


def assign_devices(placed: PlacedGraph) -> PlacedGraph:
    """Returns `placed` with the slots' devices in place of the trace device.

    Args:
        placed: A graph with all its transfers. It is not changed, nor is its root: bodies of
            higher-order operations that must change are copied into a new root.
    """
    assigned = placed.copy()
    bodies: dict[str, nn.Module] = {}
    for node in list(assigned.graph.nodes):
        if node.op == "call_function" and not is_transfer(node):
            set_devices(node, assigned.slot_of(node).device)
            _assign_bodies(node, assigned, bodies)
    _drop_unused_modules(assigned.graph)
    if not bodies:
        return assigned
    root = with_attributes(assigned.root, assigned.graph, bodies)
    assigned.graph.owning_module = root  # what lint looks attributes up in
    return dataclasses.replace(assigned, root=root)


def set_devices(node: fx.Node, device: torch.device) -> None:
    """Makes `device` every device that `node` names, or creates its value on, in place."""

    def replaced(leaf: fx.node.Argument) -> fx.node.Argument:
        return device if isinstance(leaf, torch.device) else leaf

    node.args = fx.node.map_aggregate(node.args, replaced)
    node.kwargs = fx.node.map_aggregate(node.kwargs, replaced)
    if not is_operator(node.target):
        return
    accepted = {argument.name for argument in node.target._schema.arguments}
    kwargs = dict(node.kwargs)
    for position, argument in enumerate(node.target._schema.arguments):
        if argument_is_device(argument):
            creates = not any(has_tensor_value(read) for read in node.all_input_nodes)
            found = kwargs.get(argument.name)
            missing = found is None and position >= len(node.args)
            if (creates and missing) or isinstance(found, str):
                kwargs[argument.name] = device
    if "pin_memory" in accepted and kwargs.get("pin_memory") and device.type != "cpu":
        kwargs["pin_memory"] = False  # only memory of the host can be pinned
    node.kwargs = kwargs


def with_attributes(
    root: nn.Module, graph: fx.Graph, changed: dict[str, nn.Module]
) -> fx.GraphModule:
    """Returns a module with the attributes of `root` that `graph` names, those of `changed` first.

    Parameters, buffers and modules are shared with `root`, not copied.
    """
    names = [node.target for node in graph.nodes if node.op == "get_attr"]
    found = {name: changed.get(name) or attribute(root, name) for name in names}
    holder = fx.Graph()
    for name in found:
        holder.get_attr(name)
    holder.output(None)
    return fx.GraphModule(found, holder)


def _assign_bodies(node: fx.Node, assigned: PlacedGraph, bodies: dict[str, nn.Module]) -> None:
    """Makes `node` read copies of the graph modules that it reads, for its own device."""
    slot = assigned.slot_of(node)
    for read in node.all_input_nodes:
        if read.op != "get_attr":
            continue
        assert isinstance(read.target, str)
        body = attribute(assigned.root, read.target)
        if not isinstance(body, fx.GraphModule) or {*body_devices(body)} <= {slot.device}:
            continue
        name = f"{read.target.replace('.', '_')}_on{slot.index}"
        if name not in bodies:
            bodies[name] = _body_on(body, slot.device, assigned.via_host)
        with assigned.graph.inserting_before(node):
            own = assigned.graph.create_node("get_attr", name, (), {}, name)
        own.meta = dict(read.meta)
        set_node_info(own, NodeInfo(slot.index, "body of its reader"))
        node.replace_input_with(read, own)


def _body_on(body: fx.GraphModule, device: torch.device, via_host: DevicePairs) -> fx.GraphModule:
    """Returns a copy of `body`, and of the bodies in it, for `device`."""
    graph = fx.Graph()
    output = graph.graph_copy(body.graph, {})
    graph.output(output)
    attributes: dict[str, object] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            set_devices(node, device)
        elif node.op == "get_attr":
            found = attribute(body, node.target)
            if isinstance(found, fx.GraphModule):
                found = _body_on(found, device, via_host)
            elif isinstance(found, torch.Tensor):
                found = moved_to(found, device, via_host)
            attributes[node.target] = found
    return fx.GraphModule(attributes, graph)


def _drop_unused_modules(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users and not has_tensor_value(node):
            graph.erase_node(node)
