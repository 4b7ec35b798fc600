"""An FX graph in which every node has a slot.

The slot of a node is the only thing that fxdevice stores in `node.meta`: one frozen `NodeInfo`
under one key, read through `node_info`. Graph copies share metadata values, so they must be
immutable.

Besides the slots that run operations, a placed graph has *caller slots*: one for each device
outside of the slots on which the caller keeps an input. Graph inputs live there, transfers start
and end there, and of operations only views are taken there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import fx, nn

from fxdevice.staging import DevicePairs

__all__ = [
    "NodeInfo",
    "PlacedGraph",
    "PlacedSlot",
    "copied_graph",
    "node_info",
    "set_node_info",
    "tensor_value",
]

_KEY = "fxdevice"


@dataclass(frozen=True, slots=True)
class PlacedSlot:
    """A slot with its device.

    Attributes:
        index: Position in `PlacedGraph.slots`.
        device: Where its values live.
        computes: False for a caller slot.
    """

    index: int
    device: torch.device
    computes: bool = True


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What fxdevice knows of one node.

    Attributes:
        slot: Index of its slot.
        reason: Why it is there, for a person to read.
        round: See `Placement.round_of`.
        origin: See `Placement.origin_of`; empty where the node is not one of several.
    """

    slot: int
    reason: str = ""
    round: int = 0
    origin: str = ""


def node_info(node: fx.Node) -> NodeInfo | None:
    """Returns the record of `node`, or None when it has not been placed."""
    info = node.meta.get(_KEY)
    assert info is None or isinstance(info, NodeInfo)
    return info


def set_node_info(node: fx.Node, info: NodeInfo) -> None:
    """Records `info` for `node`."""
    node.meta[_KEY] = info


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """Returns a copy of a graph with the same names; metadata values are shared."""
    copy = fx.Graph(graph.owning_module)
    values: dict[fx.Node, fx.Node] = {}
    output = copy.graph_copy(graph, values)
    if output is not None:
        copy.output(output).meta = dict(graph.output_node().meta)
    return copy


def tensor_value(node: fx.Node) -> torch.Tensor | None:
    """Returns the fake tensor that stands for the node's value, or None when it is no tensor."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


@dataclass(frozen=True)
class PlacedGraph:
    """A graph whose nodes all have a slot.

    Attributes:
        root: Owner of what `get_attr` nodes name. Shared between the versions of a graph.
        graph: The nodes. A pass copies it (see `copy`), never changes the one it was given.
        slots: The slots that compute, then the caller slots.
        output_slots: For each element of the output tuple the slot where it must end: that of the
            parameter for a gradient, of the input for an updated input; None when anywhere will do.
        via_host: Devices between which transfers are staged.
    """

    root: nn.Module
    graph: fx.Graph
    slots: tuple[PlacedSlot, ...]
    output_slots: tuple[int | None, ...]
    via_host: DevicePairs = frozenset()

    def slot_of(self, node: fx.Node) -> PlacedSlot:
        """Returns the slot of `node`.

        Raises:
            KeyError: The node has not been placed.
        """
        info = node_info(node)
        if info is None:
            raise KeyError(f"node {node.name!r} has no slot")
        return self.slots[info.slot]

    def outputs(self) -> tuple[fx.node.Argument, ...]:
        """Returns the elements of the output tuple: nodes, None or constants."""
        found = self.graph.output_node().args[0]
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    def copy(self) -> PlacedGraph:
        """Returns a placed graph with a copy of the graph; the root is shared."""
        return dataclasses.replace(self, graph=copied_graph(self.graph))
