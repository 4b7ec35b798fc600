"""What the results of a graph are: values for the caller, and gradients of its inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from fxdevice.op_kinds import view_base

__all__ = ["gradients_of", "is_tangent", "result_roots", "storage_root"]


def is_tangent(node: fx.Node) -> bool:
    """Returns whether `node` is the input of a gradient of a result of forward."""
    return node.op == "placeholder" and node.name.startswith("tangents")


def storage_root(node: fx.Node) -> fx.Node:
    """Returns the node that allocates the memory of the node's value."""
    base = view_base(node)
    while base is not None:
        node, base = base, view_base(base)
    return node


def result_roots(graph: fx.Graph) -> frozenset[fx.Node]:
    """Returns the nodes whose storage is behind the graph's results."""
    return frozenset(storage_root(node) for node in graph.output_node().all_input_nodes)


def gradients_of(graph: fx.Graph) -> Mapping[str, fx.Node]:
    """Returns the gradients that a joint graph computes, by the name of the input they belong to.

    The results of a joint graph are those of the forward pass, then for every input that is no
    tangent its gradient or None, in order. A graph without tangents has no gradients.

    Source: `create_joint` in torch/_functorch/_aot_autograd/graph_capture_wrappers.py.
    """
    placeholders = graph.find_nodes(op="placeholder")
    primals = [node for node in placeholders if not is_tangent(node)]
    outputs = graph.output_node().args[0]
    if len(primals) == len(placeholders) or not isinstance(outputs, (tuple, list)):
        return {}
    pairs = zip(reversed(primals), reversed(outputs), strict=False)
    return {primal.name: value for primal, value in pairs if isinstance(value, fx.Node)}
