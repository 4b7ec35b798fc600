"""Labels that say which nodes of several slots make a piece (no torch).

Each node has a *depth*, the most changes of the slot on any way to it, and a *height*, the most
changes of the slot on any way from it. Nodes of one lane with equal depth and height are one piece:
an edge to another slot goes up in depth and down in height, so pieces of slots do not wait for each
other in a circle. What takes no time goes to where it is read, or stays where it is made if one of
several twins reads it: equal pieces stay equal.

Twins have equal labels: the largest that any of them needs. All this holds for them as well, for
their edges together are those of one node, unless a way leads from one twin to another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias, TypeVar

__all__ = ["Label", "labels"]

_Node = TypeVar("_Node", bound=Hashable)

Label: TypeAlias = tuple[int, int]
"""Depth and negative height: neither falls along an edge."""


def labels(
    needs: Mapping[_Node, Sequence[_Node]],
    lane_of: Mapping[_Node, tuple[int, ...]],
    seconds_of: Callable[[_Node], float],
    twins: Mapping[_Node, Hashable],
) -> dict[_Node, Label]:
    """Returns the label of every node.

    Args:
        needs: For each node the nodes that must run before it; in an executable order.
        lane_of: Lane of a node; its first number is the slot.
        seconds_of: Seconds of a node.
        twins: What a node has in common with its twins, if it has any. They do not count where a
            way leads from one of them to another.

    Complexity: O(nodes + edges).
    """
    classes = _classes(needs, twins)
    class_of = {node: index for index, members in enumerate(classes) for node in members}
    depth = [0] * len(classes)
    for index, members in enumerate(classes):
        depth[index] = max(
            (
                depth[class_of[source]] + (lane_of[source][0] != lane_of[node][0])
                for node in members
                for source in needs[node]
            ),
            default=0,
        )
    readers: dict[_Node, list[_Node]] = {node: [] for node in needs}
    for node, before in needs.items():
        for source in before:
            readers[source].append(node)
    height = [0] * len(classes)
    found: list[Label] = [(0, 0)] * len(classes)
    for index in reversed(range(len(classes))):
        members = classes[index]
        later = {class_of[reader] for node in members for reader in readers[node]}
        height[index] = max(
            (
                height[class_of[reader]] + (lane_of[reader][0] != lane_of[node][0])
                for node in members
                for reader in readers[node]
            ),
            default=0,
        )
        found[index] = (depth[index], -height[index])
        is_read_there = all(
            readers[node] and all(lane_of[r] == lane_of[node] for r in readers[node])
            for node in members
        )
        if is_read_there and all(seconds_of(node) <= 0.0 for node in members):
            found[index] = min(found[n] for n in later)
    for index, members in enumerate(classes):
        node, before = members[0], needs[members[0]]
        is_alone = len(members) == 1 and any(len(classes[class_of[r]]) > 1 for r in readers[node])
        if is_alone and len(before) == 1 and seconds_of(node) <= 0.0:
            (source,) = before
            if lane_of[source] == lane_of[node]:
                found[index] = found[class_of[source]]
    return {node: found[class_of[node]] for node in needs}


def _classes(
    needs: Mapping[_Node, Sequence[_Node]], twins: Mapping[_Node, Hashable]
) -> list[list[_Node]]:
    """Returns twins together and other nodes alone, every class behind those that it needs."""
    members: dict[Hashable, list[_Node]] = defaultdict(list)
    class_of: dict[_Node, Hashable] = {}
    for node in needs:
        class_of[node] = ("twins", twins[node]) if node in twins else ("alone", node)
        members[class_of[node]].append(node)
    if len(members) == len(needs):
        return list(members.values())
    order = TopologicalSorter(
        {
            name: {class_of[source] for node in nodes for source in needs[node]}
            for name, nodes in members.items()
        }
    )
    try:
        return [members[name] for name in order.static_order()]
    except CycleError:
        return [[node] for node in needs]
