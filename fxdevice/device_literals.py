"""The devices that are written in a graph: in arguments, in bodies of higher-order operations."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

from fxdevice.op_kinds import argument_is_device, has_tensor_value, is_operator

__all__ = ["attribute", "body_devices", "named_devices"]


def named_devices(node: fx.Node) -> Iterator[object]:
    """Yields the devices in the arguments of `node`, None for a creation without one."""
    leaves: list[object] = []
    fx.node.map_aggregate((node.args, node.kwargs), lambda leaf: leaves.append(leaf))
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    yield from devices
    if devices or not is_operator(node.target):
        return
    if any(has_tensor_value(read) for read in node.all_input_nodes):
        return
    for argument in node.target._schema.arguments:
        if argument_is_device(argument):
            yield node.kwargs.get(argument.name)


def body_devices(body: fx.GraphModule) -> Iterator[object]:
    """Yields the devices in `body`, those of its constants and of the bodies in it included."""
    for node in body.graph.nodes:
        if node.op == "call_function":
            yield from named_devices(node)
        elif node.op == "get_attr":
            found = attribute(body, str(node.target))
            if isinstance(found, fx.GraphModule):
                yield from body_devices(found)
            elif isinstance(found, torch.Tensor):
                yield found.device


def attribute(root: nn.Module, name: str) -> object:
    """Returns the attribute of `root` with the dotted name `name`."""
    found: object = root
    for part in name.split("."):
        found = getattr(found, part)
    return found
