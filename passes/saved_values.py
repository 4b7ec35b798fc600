"""What the forward pass keeps for the backward pass, told from the joint graph before it is cut.

Follows what `default_partition` will do (torch/_functorch/partitioners.py, used by `fxdevice.cut`):
the forward graph is everything up to the last node that was traced in forward, and it saves what
the backward graph reads of it. A value that is marked for recomputation is made again in the
backward graph, from what stands in front of the marked region.

What a saved value costs are the bytes of the storage behind it, once: a view of a parameter or of
an input of the graph costs nothing, two views of one value cost that value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from fxdevice.op_kinds import (
    has_tensor_value,
    is_getitem,
    is_random,
    is_tuple_value,
)
from fxdevice.passes.graph_outputs import gradients_of, is_tangent, storage_root

__all__ = ["Cut", "cut_of"]

_RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


@dataclass(frozen=True, slots=True)
class Cut:
    """How a joint graph will be cut.

    Attributes:
        late: Nodes of the backward graph only; empty for an inference graph.
        saved: Values that forward hands to backward.
        kept: Nodes whose storage is behind the saved values, inputs of the graph left out.
        repeated: Forward nodes that backward computes a second time.
    """

    late: frozenset[fx.Node] = frozenset()
    saved: frozenset[fx.Node] = frozenset()
    kept: frozenset[fx.Node] = frozenset()
    repeated: frozenset[fx.Node] = frozenset()


def cut_of(graph: fx.Graph) -> Cut:
    """Returns how `graph` will be cut into forward and backward.

    Args:
        graph: A forward, backward or joint graph. Without a tangent among its inputs there is
            nothing to cut.
    """
    tangents = frozenset(n for n in graph.find_nodes(op="placeholder") if is_tangent(n))
    if not tangents:
        return Cut()
    gradients = frozenset(gradients_of(graph).values())
    late = _late(graph, tangents) - _needed_by_forward(graph, gradients, tangents)
    policies = _policies(graph, late)
    reached = _needed_by_backward(gradients & late, late, policies)
    saved = frozenset(node for node in reached if _is_saved(node, late, policies))
    roots = (storage_root(node) for node in saved)
    return Cut(
        late=late,
        saved=saved,
        kept=frozenset(root for root in roots if root.op == "call_function"),
        repeated=frozenset(n for n in reached if policies[n] in _RECOMPUTED),
    )


def _late(graph: fx.Graph, tangents: frozenset[fx.Node]) -> frozenset[fx.Node]:
    """Returns all behind the last forward node, by the tracer's tags or else by dependence."""
    nodes = [node for node in graph.nodes if node.op != "output"]
    tagged = [i for i, node in enumerate(nodes) if node.meta.get("partitioner_tag") == "is_forward"]
    if not tagged:
        found = set(tangents)
        for node in nodes:
            if any(read in found for read in node.all_input_nodes):
                found.add(node)
        return frozenset(found)
    inputs = (i for i, n in enumerate(nodes) if n.op == "placeholder" and n not in tangents)
    last = max(tagged[-1], *inputs, 0)
    return tangents.union(nodes[last + 1 :])


def _policies(
    graph: fx.Graph, late: frozenset[fx.Node]
) -> Mapping[fx.Node, CheckpointPolicy | None]:
    """Returns what is to be saved or recomputed, as the partitioner settles it.

    Source: `cleanup_recompute_tags` of the partitioner, and `fxdevice.cut`, which saves what random
    operations drew.
    """
    found: dict[fx.Node, CheckpointPolicy | None] = {}
    for node in graph.nodes:
        found[node] = None if node in late else node.meta.get("recompute")
    if not any(policy in _RECOMPUTED for policy in found.values()):
        return found
    for node, policy in list(found.items()):
        if policy in _RECOMPUTED and is_random(node):
            for drawn in (node, *(node.users if is_tuple_value(node) else ())):
                found[drawn] = CheckpointPolicy.MUST_SAVE
    for node in found:
        readers = [user for user in node.users if found.get(user) in _RECOMPUTED]
        region = node.meta.get("ac_graph_id")
        if found[node] in _RECOMPUTED:
            is_border = region is not None and any(
                user.meta.get("ac_graph_id", region) > region for user in readers
            )
        else:
            of_region = is_getitem(node) and "ac_graph_id" in node.all_input_nodes[0].meta
            is_border = region is None and bool(readers) and not of_region and node not in late
        if is_border:
            found[node] = CheckpointPolicy.MUST_SAVE
    return found


def _needed_by_forward(
    graph: fx.Graph, gradients: frozenset[fx.Node], tangents: frozenset[fx.Node]
) -> frozenset[fx.Node]:
    """Returns all that the results of forward depend on; some stand behind its last node."""
    results = graph.output_node().all_input_nodes
    pending = [node for node in results if node not in gradients]
    found = set(pending)
    while pending:
        before = [node for node in pending.pop().all_input_nodes if node not in found]
        found.update(before)
        pending += before
    return frozenset(found) if tangents.isdisjoint(found) else frozenset()


def _needed_by_backward(
    gradients: frozenset[fx.Node],
    late: frozenset[fx.Node],
    policies: Mapping[fx.Node, CheckpointPolicy | None],
) -> frozenset[fx.Node]:
    """Returns all that the results of backward depend on, back to what is not recomputed."""
    pending = list(gradients)
    found = set(pending)
    while pending:
        for read in pending.pop().all_input_nodes:
            if read not in found:
                found.add(read)
                if read in late or policies[read] in _RECOMPUTED:
                    pending.append(read)
    return frozenset(found)


def _is_saved(
    node: fx.Node,
    late: frozenset[fx.Node],
    policies: Mapping[fx.Node, CheckpointPolicy | None],
) -> bool:
    """Returns whether the walk back from the results of backward ends at `node`."""
    if node in late or is_tuple_value(node):
        return False
    if policies[node] in _RECOMPUTED:
        return False
    is_read = policies[node] is CheckpointPolicy.MUST_SAVE or any(_tensor_readers(node, late))
    return is_read and has_tensor_value(node)


def _tensor_readers(node: fx.Node, late: frozenset[fx.Node]) -> Iterator[bool]:
    """Yields for every backward reader whether it needs the elements, not only the sizes."""
    for user in node.users:
        if user in late:
            yield has_tensor_value(user) or is_tuple_value(user)
