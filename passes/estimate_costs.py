"""Turns an FX graph of ATen operations into the plain `Dag` that the placers work on.

All figures come from the fake values on the nodes; a symbolic size counts as its hint. What the
operations cost stands in `kernels`, what is kept for the backward pass in `saved_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import fx

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import OpDims
from fxdevice.op_kinds import is_getitem, is_random, is_tuple_value
from fxdevice.passes.cache_tensors import cache_lengths
from fxdevice.passes.graph_outputs import gradients_of, result_roots, storage_root
from fxdevice.passes.kernels import NO_WORK, Work, kernel_work
from fxdevice.passes.recompute import is_recomputable
from fxdevice.passes.saved_values import Cut, cut_of
from fxdevice.passes.traffic import is_kernel
from fxdevice.sizes import size_hint, tensor_bytes
from fxdevice.source_line import source_line

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
        is_argument: Whether the call is given it; False for what the model owns.
        may_change: Whether the graph gives it, or other state in its storage, a new value.
    """

    name: str
    kind: NodeKind
    slot: int | None = None
    needs_gradient: bool = False
    shares_storage_with: str | None = None
    is_argument: bool = False
    may_change: bool = False


def estimate_costs(
    graph: fx.Graph,
    inputs: Mapping[str, GraphInput],
    module_name: Callable[[str], str] = lambda _: "",
    dims_of: Callable[[fx.Node], OpDims | None] | None = None,
    *,
    fuses: bool = False,
) -> Dag:
    """Returns the Dag of `graph`.

    Args:
        graph: Forward, backward or joint graph, with a fake value on every node.
        inputs: What is known of placeholders, by node name; any other is an INPUT.
        module_name: Turns the tracer's expression for a module into its qualified name.
        dims_of: Says how an operation can be divided; None: no operation can be.
        fuses: Whether the inner compiler joins operations into kernels, as inductor does.
    """
    facts = _Facts(graph, fuses=fuses)
    # The first node of every autograd sequence number so far. Later ones with the same number may
    # belong to the backward pass without depending on a tangent, such as the transposed weight of a
    # linear layer.
    forward_of: dict[int, fx.Node] = {}
    nodes = []
    for node in graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            nodes.append(facts.complete(node, _input_node(node, inputs.get(node.name))))
            continue
        is_backward = node in facts.backward
        if not is_backward and "seq_nr" in node.meta:
            forward_of.setdefault(node.meta["seq_nr"], node)
        is_sum = is_backward and _is_gradient_sum(node, facts.backward)
        work = facts.work_of(node)
        known = DagNode(
            name=node.name,
            kind=NodeKind.COMPUTE,
            inputs=tuple(dict.fromkeys(n.name for n in node.all_input_nodes)),
            output_bytes=num_bytes(node),
            flops=work.flops,
            traffic_bytes=work.traffic_bytes,
            num_launches=work.num_launches,
            dtype=work.dtype,
            work_kind=work.kind,
            follows=_followed(node, forward_of if is_backward and not is_sum else {}),
            is_backward=is_backward,
            is_recomputable=is_recomputable(node),
            module=_module_path(node, module_name),
            dims=None if dims_of is None else dims_of(node),
            element=_element(node),
            is_random=is_random(node),
            source=source_line(node) or "",
        )
        nodes.append(facts.complete(node, known))
    return Dag(tuple(nodes))


class _Facts:
    """What is known of a graph as a whole.

    Attributes:
        backward: Nodes that depend on a tangent.
    """

    def __init__(self, graph: fx.Graph, *, fuses: bool) -> None:
        self.backward = backward_nodes(graph)
        self._cut: Cut = cut_of(graph)
        self._work, self._internal = kernel_work(graph, self._cut.late, fuses=fuses)
        self._results = result_roots(graph)
        gradients = gradients_of(graph).items()
        self._gradient_of = {storage_root(node): name for name, node in gradients}
        self._cache_lengths = cache_lengths(graph)

    def work_of(self, node: fx.Node) -> Work:
        """Returns what `node` costs: twice when backward computes it again."""
        work = self._work.get(node, NO_WORK)
        if node not in self._cut.repeated:
            return work
        return replace(
            work,
            flops=2 * work.flops,
            traffic_bytes=2 * work.traffic_bytes,
            num_launches=2 * work.num_launches,
        )

    def complete(self, node: fx.Node, known: DagNode) -> DagNode:
        """Returns `known` with what follows from the rest of the graph."""
        return replace(
            known,
            saved_bytes=num_bytes(node) if node in self._cut.kept else 0,
            shape=_shape(node.meta.get("val")),
            varying_dims=_varying_dims(node.meta.get("val")),
            is_late=node in self._cut.late,
            is_output=node in self._results,
            is_internal=node in self._internal,
            workspace_bytes=_untaken_bytes(node),
            gradient_of=self._gradient_of.get(node),
            cache_length=self._cache_lengths.get(node, 0),
        )


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
        return DagNode(node.name, NodeKind.INPUT, output_bytes=num_bytes(node), num_launches=0)
    return DagNode(
        name=node.name,
        kind=known.kind,
        num_launches=0,
        output_bytes=num_bytes(node),
        gradient_bytes=num_bytes(node) if known.needs_gradient else 0,
        follows=known.shares_storage_with,
        is_argument=known.is_argument,
        may_change=known.may_change,
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


def _element(node: fx.Node) -> int | None:
    index = node.args[1] if is_getitem(node) else None
    return index if isinstance(index, int) else None


def _untaken_bytes(node: fx.Node) -> int:
    """Returns the bytes of the elements of a tuple that no `getitem` takes."""
    if not is_kernel(node) or not is_tuple_value(node):
        return 0
    taken = {_element(user): num_bytes(user) for user in node.users if is_getitem(user)}
    made = (_tensor_bytes(value) for value in node.meta["val"])
    return max(0, sum(made) - sum(taken.values()))


def _shape(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, torch.Tensor):
        return None
    return tuple(size_hint(size) for size in value.shape)


def _varying_dims(value: object) -> tuple[int, ...]:
    if not isinstance(value, torch.Tensor):
        return ()
    return tuple(dim for dim, size in enumerate(value.shape) if not isinstance(size, int))


def _module_path(node: fx.Node, module_name: Callable[[str], str]) -> str:
    """Returns the path of the module that the node was traced from, such as "layers.0.mlp"."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return module_name(paths[-1]) if paths else ""
