"""Turns an FX graph of ATen operations into the plain `Dag` that the placers work on.

All figures come from the fake values on the nodes; a symbolic size counts as its hint. FLOPs are
those of `torch.utils.flop_counter` where it has a formula, else one per element of the output;
traffic is the bytes of the inputs and outputs of an operation, none for a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.op_kinds import is_getitem
from fxdevice.passes.recompute import is_recomputable
from fxdevice.sizes import size_hint, tensor_bytes

__all__ = ["GraphInput", "backward_nodes", "estimate_costs", "num_bytes"]


@dataclass(frozen=True, slots=True)
class GraphInput:
    """What is known of one graph input before placement.

    Attributes:
        name: A name for reports: the qualified name of state, or the caller's expression.
        kind: STATE for what fxdevice places (or finds resident on a slot), else INPUT.
        slot: Slot where it is already, or must be; None when the placer decides.
        needs_gradient: Whether a gradient of it is computed.
        shares_storage_with: Name of the placeholder of an earlier input in the same storage.
    """

    name: str
    kind: NodeKind
    slot: int | None = None
    needs_gradient: bool = False
    shares_storage_with: str | None = None


def estimate_costs(
    graph: fx.Graph,
    inputs: Mapping[str, GraphInput],
    module_name: Callable[[str], str] = lambda _: "",
) -> Dag:
    """Returns the Dag of `graph`.

    Args:
        graph: Forward, backward or joint graph, with a fake value on every node.
        inputs: What is known of placeholders, by node name; any other is an INPUT.
        module_name: Turns the tracer's expression for a module into its qualified name.
    """
    backward = backward_nodes(graph)
    # The first node of every autograd sequence number so far. Later ones with the same number may
    # belong to the backward pass without depending on a tangent, such as the transposed weight of a
    # linear layer.
    forward_of: dict[int, fx.Node] = {}
    nodes = []
    for node in graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            nodes.append(_input_node(node, inputs.get(node.name)))
            continue
        is_backward = node in backward
        if not is_backward and "seq_nr" in node.meta:
            forward_of.setdefault(node.meta["seq_nr"], node)
        is_sum = is_backward and _is_gradient_sum(node, backward)
        follows = _followed(node, forward_of if is_backward and not is_sum else {})
        nodes.append(
            DagNode(
                name=node.name,
                kind=NodeKind.COMPUTE,
                inputs=tuple(dict.fromkeys(n.name for n in node.all_input_nodes)),
                output_bytes=num_bytes(node),
                flops=_flops(node),
                traffic_bytes=_traffic_bytes(node),
                follows=follows,
                is_backward=is_backward,
                is_recomputable=is_recomputable(node),
                saved_bytes=_saved_bytes(node, backward),
                module=_module_path(node, module_name),
            )
        )
    return Dag(tuple(nodes))


def backward_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """Returns the nodes of a joint graph that depend on a tangent."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        is_tangent = node.op == "placeholder" and node.name.startswith("tangents")
        if is_tangent or any(n in found for n in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def num_bytes(node: fx.Node) -> int:
    """Returns the bytes of the node's value; 0 when it is no tensor (a tuple's are its items')."""
    return _tensor_bytes(node.meta.get("val"))


def _tensor_bytes(value: object) -> int:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return 0
    return tensor_bytes(value)


def _input_node(node: fx.Node, known: GraphInput | None) -> DagNode:
    if known is None:
        return DagNode(node.name, NodeKind.INPUT, output_bytes=num_bytes(node))
    return DagNode(
        name=node.name,
        kind=known.kind,
        output_bytes=num_bytes(node),
        gradient_bytes=num_bytes(node) if known.needs_gradient else 0,
        follows=known.shares_storage_with,
        module=known.name.rpartition(".")[0],
    )


def _is_gradient_sum(node: fx.Node, backward: frozenset[fx.Node]) -> bool:
    """Returns whether `node` adds up gradients of a value that several operations read.

    Such a sum belongs to no forward operation; the tracer leaves it the sequence number of whatever
    ran last.
    """
    read = node.all_input_nodes
    return node.target is torch.ops.aten.add.Tensor and all(n in backward for n in read)


def _followed(node: fx.Node, forward_of: Mapping[int, fx.Node]) -> str | None:
    if is_getitem(node):
        return node.all_input_nodes[0].name
    forward = forward_of.get(node.meta.get("seq_nr", -1))
    return None if forward is None else forward.name


def _flops(node: fx.Node) -> int:
    if node.op != "call_function" or _is_view(node) or is_getitem(node):
        return 0
    outputs = list(_tensors(node.meta.get("val")))
    formula = flop_registry.get(getattr(node.target, "overloadpacket", None))
    if formula is not None:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
        return size_hint(formula(*args, **kwargs, out_val=node.meta.get("val")))
    return sum(size_hint(value.numel()) for value in outputs)


def _traffic_bytes(node: fx.Node) -> int:
    if node.op != "call_function" or _is_view(node) or is_getitem(node):
        return 0
    read = sum(num_bytes(n) for n in node.all_input_nodes)
    return read + sum(_tensor_bytes(value) for value in _tensors(node.meta.get("val")))


def _is_view(node: fx.Node) -> bool:
    return bool(getattr(node.target, "is_view", False))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor))


def _saved_bytes(node: fx.Node, backward: frozenset[fx.Node]) -> int:
    """Returns the bytes of a forward value that some backward node reads."""
    if node in backward or not any(user in backward for user in node.users):
        return 0
    return num_bytes(node)


def _module_path(node: fx.Node, module_name: Callable[[str], str]) -> str:
    """Returns the path of the module that the node was traced from, such as "layers.0.mlp"."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return module_name(paths[-1]) if paths else ""
