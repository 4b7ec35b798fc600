"""Writes a placement onto the nodes of a graph."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from fxdevice.placed_graph import NodeInfo, node_info, set_node_info
from fxdevice.placement import Placement

__all__ = ["assign_slots", "complete_slots"]


def assign_slots(graph: fx.Graph, placement: Placement, located: Mapping[str, NodeInfo]) -> None:
    """Gives every node of `graph` its slot, in place: the one step that changes its argument.

    It runs on the joint graph, so that the partitioner hands the slots on to the forward and the
    backward graph.

    Args:
        graph: The graph that the placement was made for.
        placement: Slot and reason by node name.
        located: Where placeholders are that the placer does not place (inputs of the caller), and
            those whose place it only proposes (state that stays where the caller has it).
    """
    for node in graph.nodes:
        if node.op == "output":
            continue
        info = located.get(node.name)
        if info is None:
            info = NodeInfo(
                slot=placement.slot_of[node.name],
                reason=placement.reason_of[node.name],
                round=placement.round_of.get(node.name, 0),
                origin=placement.origin_of.get(node.name, ""),
            )
        set_node_info(node, info)


def complete_slots(graph: fx.Graph) -> None:
    """Gives a slot to nodes that the partitioner added: that of the first input that has one.

    Args:
        graph: A forward or backward graph, changed in place.
    """
    for node in graph.nodes:
        if node.op == "output" or node_info(node) is not None:
            continue
        found = [info for n in node.all_input_nodes if (info := node_info(n)) is not None]
        set_node_info(node, found[0] if found else NodeInfo(0, "added by the partitioner"))
