"""Makes a `DagNode` of every instance of an expansion, with its share of the work (no torch).

Nodes repeat from layer to layer. Of each kind of piece, slice or sum the first is made from the
node that it comes from, and the others are copies of it with another identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import Dims, cut_of
from fxdevice.divisible import piece_size, undivided_bytes
from fxdevice.pieces import Expansion, Instance, Role
from fxdevice.rounds import late_instances

__all__ = ["instance_nodes"]

# To look up a member of an enum takes a function call in Python 3.11.
_WHOLE, _PIECE = Role.WHOLE, Role.PIECE

_IDENTITY = ("name", "inputs", "module", "source", "gradient_of")
"""Fields in which nodes that are alike differ."""

_OF_PIECE: Mapping[str, Any] = {
    "follows": None,
    # The whole value is the result, not its pieces.
    "is_output": False,
    "gradient_of": None,
    "cache_length": 0,
    "dims": None,
}

_OF_JOINED: Mapping[str, Any] = {
    "kind": NodeKind.COMPUTE,
    "follows": None,
    "flops": 0,
    "traffic_bytes": 0,
    "work_kind": "",
    "time_factors": (),
    "num_launches": 1,
    "gradient_bytes": 0,
    "saved_bytes": 0,
    "workspace_bytes": 0,
    "is_recomputable": False,
    "is_random": False,
    "is_internal": False,
    "element": None,
    "dims": None,
}


def _all_but(names: Collection[str]) -> Callable[[DagNode], Hashable]:
    return attrgetter(*[field.name for field in fields(DagNode) if field.name not in names])


_facts_of_piece = _all_but({*_IDENTITY, *_OF_PIECE})
_facts_of_joined = _all_but({*_IDENTITY, *_OF_JOINED})


def instance_nodes(expansion: Expansion, results: Mapping[str, DagNode]) -> tuple[DagNode, ...]:
    """Returns a node for every instance, in their order.

    Args:
        expansion: The instances.
        results: For every instance that holds the bytes of a result, what tells which one.
    """
    maker = _Maker(expansion, results)
    for instance in expansion.instances:
        maker.add(instance)
    return tuple(maker.nodes.values())


class _Maker:
    """Makes one node after another.

    Attributes:
        nodes: What was made so far, by name.
    """

    def __init__(self, expansion: Expansion, results: Mapping[str, DagNode]) -> None:
        self.nodes: dict[str, DagNode] = {}
        self._dag = dag = expansion.dag
        self._by_name = dag.by_name
        self._late = late_instances(expansion.instances, dag)
        self._results = results
        self._piece_of: dict[tuple[str, int], DagNode] = {}
        self._alike: dict[Hashable, DagNode] = {}

    def add(self, instance: Instance) -> None:
        """Makes the node of one instance, whose inputs are there."""
        origin, name = self._by_name[instance.origin], instance.name
        is_late = name in self._late
        also: dict[str, Any] = {}
        if instance.round or (is_late and not origin.is_late):
            also = {"round": instance.round, "is_late": is_late}
        inputs = instance.inputs
        if len(set(inputs)) < len(inputs):
            inputs = tuple(dict.fromkeys(inputs))
        if instance.role is _PIECE:
            also["module"], also["source"] = origin.module, origin.source
            made = self._piece(instance, origin).changed(name=name, inputs=inputs, **also)
        elif instance.role is not _WHOLE:
            made = self._joined(instance, origin, inputs, also)
        elif also or inputs != origin.inputs or origin.follows is not None:
            made = origin.changed(inputs=inputs, follows=None, **also)
        else:
            made = origin
        self.nodes[name] = made

    def _piece(self, instance: Instance, origin: DagNode) -> DagNode:
        """Returns a piece of this kind."""
        share = instance.shares[instance.index]
        key = (instance.origin, share)
        if key not in self._piece_of:
            dims = _dims(origin, self._dag)
            whole_bytes = undivided_bytes(origin, instance.label, self._dag)
            cut = (dims, instance.label, share, sum(instance.shares), whole_bytes)
            kind = (cut, _facts_of_piece(origin))
            if kind not in self._alike:
                self._alike[kind] = _new_piece(origin, instance, dims, whole_bytes)
            self._piece_of[key] = self._alike[kind]
        return self._piece_of[key]

    def _joined(
        self,
        instance: Instance,
        origin: DagNode,
        inputs: tuple[str, ...],
        also: dict[str, Any],
    ) -> DagNode:
        """Returns the node of a copy, a slice, or what is made of pieces."""
        result, role = self._results.get(instance.name), instance.role
        also["name"], also["inputs"] = instance.name, inputs
        also["gradient_of"] = None if result is None else result.gradient_of
        is_output = result is not None and result.is_output
        if role is Role.COPY:
            # One of the copies is the result.
            return origin.changed(**also, is_output=is_output, follows=None, dims=None)
        is_slice = role is Role.SLICE
        read_bytes = 0 if is_slice else sum([self.nodes[n].output_bytes for n in instance.inputs])
        cut = (role, instance.cut, instance.index, instance.shares, len(instance.inputs))
        kind = (cut, read_bytes, result is None, is_output, _facts_of_joined(origin))
        if kind not in self._alike:
            made = _new_joined(origin, instance, read_bytes)
            kept_length = 0 if result is None else origin.cache_length
            self._alike[kind] = made.changed(is_output=is_output, cache_length=kept_length)
        also["module"], also["source"] = origin.module, origin.source
        return self._alike[kind].changed(**also)


def _dims(origin: DagNode, dag: Dag) -> Dims:
    """Returns the labels of the value of a node; none where it is a tuple."""
    if origin.element is not None:
        # What is summed over the pieces, such as a gradient, is whole in each of them.
        maker = dag[origin.inputs[0]]
        return () if maker.dims is None else maker.dims.outputs[origin.element]
    outputs = () if origin.dims is None else origin.dims.outputs
    return outputs[0] if len(outputs) == 1 else ()


def _new_piece(origin: DagNode, instance: Instance, dims: Dims, whole_bytes: int) -> DagNode:
    """Returns a piece, which has its share of the work.

    Args:
        origin: The whole node.
        instance: Which piece.
        dims: Labels of the value.
        whole_bytes: What every piece reads whole, such as a weight.
    """
    shape, output_bytes = origin.shape, origin.output_bytes
    cut = None if shape is None else cut_of(dims, instance.label, shape)
    if shape is not None and cut is not None:
        shape = _cut(shape, cut.dim, instance)
        output_bytes = _share(output_bytes, instance)
    return origin.changed(
        **_OF_PIECE,
        shape=shape,
        output_bytes=output_bytes,
        flops=_share(origin.flops, instance),
        traffic_bytes=whole_bytes + _share(origin.traffic_bytes - whole_bytes, instance),
        saved_bytes=min(origin.saved_bytes, output_bytes),
        workspace_bytes=_share(origin.workspace_bytes, instance),
    )


def _new_joined(origin: DagNode, instance: Instance, read_bytes: int) -> DagNode:
    """Returns a slice, or what is made of pieces of `read_bytes`."""
    made = origin.changed(**_OF_JOINED)
    if instance.role in (Role.SLICE, Role.PART):
        assert made.shape is not None
        shape = _cut(made.shape, instance.cut.dim, instance)
        made = made.changed(shape=shape, output_bytes=_share(made.output_bytes, instance))
    if instance.role is Role.SLICE:
        # Parts of several runs are put together; that of one run is a view.
        traffic_bytes = 2 * made.output_bytes if instance.cut.num_runs > 1 else 0
        return made.changed(traffic_bytes=traffic_bytes)
    # Reads every piece and writes the whole; adding takes an operation for each further piece.
    num_adds = 0 if instance.role is Role.CONCAT else len(instance.inputs) - 1
    return made.changed(
        flops=num_adds * math.prod(made.shape or ()),
        traffic_bytes=read_bytes + made.output_bytes,
        # While a third value is added, the sum of the first two is there too.
        workspace_bytes=made.output_bytes if num_adds > 1 else 0,
        num_steps=num_adds + 1 if instance.role is Role.MEAN else max(num_adds, 1),
    )


def _share(amount: int, instance: Instance) -> int:
    return -(-amount * instance.shares[instance.index] // sum(instance.shares))


def _cut(shape: tuple[int, ...], dim: int, instance: Instance) -> tuple[int, ...]:
    """Returns the shape of a piece along a dimension."""
    size = piece_size(shape[dim], instance.shares, instance.index)
    return (*shape[:dim], size, *shape[dim + 1 :])
