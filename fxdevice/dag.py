"""The graph as the placers see it: names, edges, work and bytes (no torch).

One `Dag` describes the whole of a graph: for training the joint graph of forward and backward, so
that a placer can count activations and gradients.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from fxdevice.derived import Derives
from fxdevice.dims import OpDims

__all__ = ["Dag", "DagNode", "NodeKind"]


class NodeKind(enum.Enum):
    """What a node is, as far as a placer cares."""

    STATE = "state"
    """A parameter or buffer: resident on one slot; its `output_bytes` stay allocated."""
    INPUT = "input"
    """A graph input that is not state: lives where the caller has it and is never placed."""
    COMPUTE = "compute"
    """An operation."""


@dataclass(frozen=True)
class DagNode:
    """One node.

    Attributes:
        name: Unique name (the fx node's name).
        kind: See `NodeKind`.
        inputs: Names of the nodes that it reads, without repeats. They come earlier in the Dag.
        output_bytes: Size of its value; 0 for a value that is not a tensor (crosses for free).
        flops: Floating-point operations.
        traffic_bytes: Bytes that it reads and writes in device memory.
        follows: Name of the node that it must share a slot with (the tuple of a `getitem`, the
            forward node of a backward one, the base of a view); None when free. A followed node
            comes earlier in the Dag.
        is_backward: True for a node of the backward pass.
        is_recomputable: True when the transfers pass recomputes it where it is needed (a cheap
            generator), so that reading it from another slot costs nothing.
        saved_bytes: Bytes of its value that are kept from forward to backward.
        gradient_bytes: For STATE: bytes of its gradient (0 when it needs none).
        module: Path of the module it was traced from, such as "model.layers.0.mlp"; may be "".
        dtype: Type that it computes in, as torch writes it without its prefix.
        work_kind: Kind of its work, for which a device may have `work_factors`.
        num_launches: Kernels that it starts: 0 for an operation that the inner compiler fuses into
            another one's kernel.
        shape: Sizes of its value; None when it is no tensor.
        varying_dims: Dimensions of its value whose size is a symbol: `shape` has the size that was
            traced, and the graph runs with others, so that no piece of them has a known size.
        dims: How it can be divided; None when it cannot.
        element: For an element of a tuple, its position in the tuple (the one input).
        is_random: True when it draws random numbers.
        source: The user's source line it was traced from; may be "".
        is_late: True when it runs in the backward program: every backward node, and what only
            backward nodes need, such as a transposed weight.
        is_output: True when the caller gets its value.
        is_internal: True when the inner compiler keeps its value inside of a kernel: on one slot
            with its readers it takes no memory.
        gradient_of: Name of the STATE or INPUT node of which its value is the gradient.
        workspace_bytes: Bytes that it takes besides its value while it runs: elements of its tuple
            that nothing takes.
        cache_length: For a key/value cache that grows with every token: how many tokens it holds.
        round: For a node of an expanded graph its round, see `fxdevice.pieces.Instance`.
        num_steps: For a node of an expanded graph that adds up its inputs one after the other: in
            how many operations. One for each input but the first; a mean weights that one before.
        time_factors: For every slot, measured over predicted seconds of what the node is a part of;
            empty where nothing was measured.
        is_argument: For STATE and INPUT: True for what the call is given, False for what the model
            owns. An argument that is on one of the slots already is STATE.
        may_change: For STATE: True when a call may change it: the graph writes to it, as batch norm
            does in training, or other state is in its storage.
    """

    name: str
    kind: NodeKind
    inputs: tuple[str, ...] = ()
    output_bytes: int = 0
    flops: int = 0
    traffic_bytes: int = 0
    follows: str | None = None
    is_backward: bool = False
    is_recomputable: bool = False
    saved_bytes: int = 0
    gradient_bytes: int = 0
    module: str = ""
    dtype: str = "float32"
    num_launches: int = 1
    shape: tuple[int, ...] | None = None
    dims: OpDims | None = None
    element: int | None = None
    is_random: bool = False
    source: str = ""
    is_argument: bool = False
    is_late: bool = False
    is_output: bool = False
    is_internal: bool = False
    gradient_of: str | None = None
    workspace_bytes: int = 0
    cache_length: int = 0
    varying_dims: tuple[int, ...] = ()
    work_kind: str = ""
    round: int = 0
    num_steps: int = 1
    time_factors: tuple[float, ...] = ()
    may_change: bool = False

    @property
    def is_resident(self) -> bool:
        """True for state that calls only read: a copy of it on another slot stays there.

        It is sent again when the state was changed from outside, as by `load_state_dict`, so that
        calls themselves transfer nothing. What is trained changes with every step, and an argument
        may be another tensor the next time: those are sent on every call, and so is what a call
        itself may change.
        """
        if self.kind is not NodeKind.STATE:
            return False
        return not (self.gradient_bytes or self.is_argument or self.may_change)

    @property
    def has_work(self) -> bool:
        """False for a view, a shape or a tuple element: it starts no kernel."""
        return self.flops > 0 or self.traffic_bytes > 0

    def time_factor(self, slot: int) -> float:
        """Returns what predicted seconds on a slot are to be multiplied by: 1 if not measured."""
        return self.time_factors[slot] if self.time_factors else 1.0

    def changed(self, **changes: Any) -> DagNode:
        """Returns a copy with other values of some fields.

        Does what `dataclasses.replace` does in a fifth of its time, which counts where a graph
        becomes tens of thousands of pieces: it sets every field of a frozen dataclass one by one.

        Raises:
            TypeError: There is no such field.
        """
        before = self.__dict__
        # Takes half the memory of `before | changes`, which makes room for more fields.
        after = {**before, **changes}
        if len(after) > len(before):
            raise TypeError(f"DagNode has no field {sorted(after.keys() - before.keys())}")
        made = object.__new__(DagNode)
        # The fields are the whole of its __dict__; a frozen class refuses the plain assignment.
        object.__setattr__(made, "__dict__", after)
        return made


@dataclass(frozen=True)
class Dag(Derives):
    """Nodes in topological order.

    Raises:
        ValueError: A name occurs twice, or a node reads or follows one that does not come before.
    """

    nodes: tuple[DagNode, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise ValueError(f"node {node.name!r} occurs twice")
            needs = (*node.inputs, node.follows) if node.follows else node.inputs
            if needs and not seen.issuperset(needs):
                name = next(name for name in needs if name not in seen)
                raise ValueError(f"node {node.name!r} needs {name!r}, which is not before it")
            seen.add(node.name)

    @classmethod
    def in_order(cls, nodes: tuple[DagNode, ...]) -> Dag:
        """Returns a Dag of nodes that are known to be right, without looking at each again.

        Args:
            nodes: With different names, each behind those that it reads or follows.
        """
        made = object.__new__(cls)
        object.__setattr__(made, "nodes", nodes)
        return made

    def __reduce__(self) -> tuple[type[Dag], tuple[tuple[DagNode, ...]]]:
        # What is computed from the nodes is computed again.
        return Dag, (self.nodes,)

    def __iter__(self) -> Iterator[DagNode]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> DagNode:
        return self.by_name[name]

    @cached_property
    def by_name(self) -> Mapping[str, DagNode]:
        """Node of every name."""
        return MappingProxyType({node.name: node for node in self.nodes})

    @cached_property
    def state(self) -> tuple[DagNode, ...]:
        """The STATE nodes."""
        return tuple([node for node in self.nodes if node.kind is NodeKind.STATE])

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the nodes that read each node, in Dag order."""
        users: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                users[name].append(node.name)
        return MappingProxyType({name: tuple(found) for name, found in users.items()})

    @cached_property
    def orders(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the nodes of every order (see `OpDims`), in Dag order."""
        orders: dict[str, list[str]] = {}
        for node in self.nodes:
            if node.dims is not None and node.dims.order:
                orders.setdefault(node.dims.order, []).append(node.name)
        return MappingProxyType({order: tuple(found) for order, found in orders.items()})

    @cached_property
    def leader_of(self) -> Mapping[str, str]:
        """For every node the first of the nodes that it must share a slot with, or itself.

        Nodes with the same leader share a slot. An INPUT node leads nobody, as it has no slot:
        a view of it is free to be where it is read.
        """
        leaders: dict[str, str] = {}
        for node in self.nodes:
            free = node.follows is None or self.by_name[node.follows].kind is NodeKind.INPUT
            leaders[node.name] = node.name if free else leaders[str(node.follows)]
        return MappingProxyType(leaders)
