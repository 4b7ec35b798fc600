"""Decides which values are transferred where, before `insert_transfers` writes it into a graph.

Three kinds of node, from the point of view of transfers:

- *generators* (`is_recomputable`): exist wherever they are read, made again on each device;
- *views*: exist on the device of their base, and again wherever their base is transferred to. A
  view of what the caller keeps outside of the slots is taken there too, so that of an input only
  the part that a slot reads is sent;
- all others are computed once, on their *home* slot.

Every value and its views form a tree. For one destination device, some nodes of the tree are read
there. Each such node must be transferred, or rebuilt there from an ancestor that is transferred.
The cheapest choice is found from the leaves to the root (bytes(n): bytes moved by transferring n):

    cost(n) = bytes(n)                        n itself is read there
    cost(n) = min(bytes(n), sum of cost(c))   else, c: views of n that are wanted there

and ties go to n: one transfer instead of several. So a slice moves only the slice, an expanded
tensor moves as its base, and three slices that make up their base move as the base, once.

Values move between devices, not between slots: slots that share a device read each other's values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import fx

from fxdevice.op_kinds import (
    has_tensor_value,
    is_storage_view,
    leader,
    view_base,
)
from fxdevice.passes.recompute import is_recomputable
from fxdevice.placed_graph import PlacedGraph
from fxdevice.sizes import content_bytes

__all__ = ["TransferPlan", "plan_transfers"]

_Wanted = dict[torch.device, int]
"""Devices where a value is read, each with the slot of its first reader there."""


@dataclass(frozen=True)
class TransferPlan:
    """Where every value exists, and how it gets there.

    Attributes:
        home: Slot where each node is computed (or given, for a placeholder).
        versions: For each node the slots that compute it, at most one for a device.
        transfers: For each node the slots that it is transferred to from its home, ascending.
    """

    home: dict[fx.Node, int]
    versions: dict[fx.Node, tuple[int, ...]]
    transfers: dict[fx.Node, tuple[int, ...]]


def plan_transfers(placed: PlacedGraph) -> TransferPlan:
    """Returns the plan with the fewest bytes moved (see the module) for a graph without transfers.

    Linear in the nodes and edges, times the number of devices.
    """
    planner = _Planner(placed)
    planner.find_homes()
    planner.collect_wants()
    planner.choose()
    planner.keep_homes()
    return TransferPlan(
        planner.home,
        {node: planner.version_slots(node) for node in placed.graph.nodes},
        {node: tuple(sorted(slots)) for node, slots in planner.transfers.items()},
    )


@dataclass
class _Planner:
    placed: PlacedGraph
    home: dict[fx.Node, int] = field(default_factory=dict)
    base: dict[fx.Node, fx.Node] = field(default_factory=dict)
    generators: set[fx.Node] = field(default_factory=set)
    wanted: dict[fx.Node, _Wanted] = field(default_factory=lambda: defaultdict(dict))
    # Devices where the node itself is read, not only views of it.
    read: dict[fx.Node, set[torch.device]] = field(default_factory=lambda: defaultdict(set))
    views_bytes: dict[tuple[fx.Node, torch.device], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    moved_here: set[tuple[fx.Node, torch.device]] = field(default_factory=set)
    transfers: dict[fx.Node, set[int]] = field(default_factory=lambda: defaultdict(set))
    versions: dict[fx.Node, _Wanted] = field(default_factory=dict)
    from_home: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.computing: _Wanted = {}
        for slot in self.placed.slots:
            if slot.computes:
                self.computing.setdefault(slot.device, slot.index)

    def device(self, slot: int) -> torch.device:
        return self.placed.slots[slot].device

    def home_device(self, node: fx.Node) -> torch.device:
        return self.device(self.home[node])

    # Forward: where each value is first, and which values are views.

    def find_homes(self) -> None:
        for node in self.placed.graph.nodes:
            if node.op == "output":
                continue
            if is_recomputable(node) or (node.op == "get_attr" and has_tensor_value(node)):
                self.generators.add(node)
            elif not is_storage_view(node) and (base := view_base(node)) is not None:
                self.base[node] = base
            self.home[node] = self.find_home(node)

    def find_home(self, node: fx.Node) -> int:
        own = self.placed.slot_of(node).index
        first = self.base.get(node) or leader(node)
        if first is None:
            return own
        home = self.home[first]
        if self.placed.slots[home].computes:
            return home
        # Outside of the slots there are views only. A slot on the same device serves as well.
        is_here = node not in self.base or self.device(own) == self.device(home)
        return own if is_here else self.computing.get(self.device(home), home)

    # Backward: where each value is read.

    def collect_wants(self) -> None:
        output = self.placed.graph.output_node()
        for value, slot in zip(self.placed.outputs(), self.placed.output_slots, strict=True):
            if isinstance(value, fx.Node):
                self.want(value, self.end_slot(value) if slot is None else slot)
        for node in reversed(self.placed.graph.nodes):
            if node is output:
                continue
            if not node.users:
                self.want(node, self.end_slot(node))
            if node in self.generators:
                for slot in self.wanted[node].values():
                    self.want_inputs(node, slot)
            elif node in self.base:
                self.want_base(node)
            else:
                self.want_inputs(node, self.home[node])

    def end_slot(self, node: fx.Node) -> int:
        """Returns where a value is left that nothing asks for elsewhere: not with the caller."""
        is_outside = not self.placed.slots[self.home[node]].computes
        return self.placed.slot_of(node).index if is_outside else self.home[node]

    def want(self, node: fx.Node, slot: int) -> None:
        """Notes that `node` itself is read on `slot`."""
        if not has_tensor_value(node):
            return
        device = self.device(slot)
        if not self.placed.slots[slot].computes and device != self.home_device(node):
            if device not in self.computing:
                # Nothing can be rebuilt there: the value itself must be moved.
                self.transfers[node].add(slot)
                self.from_home.add(node)
                slot, device = self.home[node], self.home_device(node)
            else:
                slot = self.computing[device]
        self.wanted[node][device] = slot
        self.read[node].add(device)

    def want_inputs(self, node: fx.Node, slot: int) -> None:
        for source in node.all_input_nodes:
            self.want(source, slot)

    def want_base(self, node: fx.Node) -> None:
        base = self.base[node]
        for device, slot in self.wanted[node].items():
            self.wanted[base][device] = slot
            self.views_bytes[base, device] += self.cost(node, device)

    def cost(self, node: fx.Node, device: torch.device) -> float:
        """Returns the bytes to move so that `node`, and what is wanted of it, is on `device`."""
        if device == self.home_device(node) and not self.is_rebuilt(node):
            return 0.0
        own = self.own_bytes(node)
        if device not in self.read[node] and self.views_bytes[node, device] < own:
            return self.views_bytes[node, device]
        self.moved_here.add((node, device))
        return own

    def own_bytes(self, node: fx.Node) -> float:
        """Returns the bytes of a transfer of `node`, infinite where it cannot be transferred."""
        if not has_tensor_value(node) or self.is_rebuilt(node):
            return math.inf
        return content_bytes(node.meta["val"])

    def is_rebuilt(self, node: fx.Node) -> bool:
        """Returns whether `node` is a view that is rebuilt on every device where it is read.

        True of the views of a generator, which has no home.
        """
        root = node
        while root in self.base:
            root = self.base[root]
        return root is not node and root in self.generators

    # Forward: the choice.

    def choose(self) -> None:
        for node in self.placed.graph.nodes:
            self.versions[node] = {}
            for device, slot in self.wanted[node].items():
                if self.exists(node, device):
                    is_home = device == self.home_device(node)
                    self.versions[node][device] = self.home[node] if is_home else slot
                elif self.is_moved(node, device):
                    self.transfers[node].add(slot)
                    self.from_home.add(node)

    def is_moved(self, node: fx.Node, device: torch.device) -> bool:
        if node not in self.base:
            self.cost(node, device)
        return (node, device) in self.moved_here

    def exists(self, node: fx.Node, device: torch.device) -> bool:
        """Returns whether `node` is computed on `device`, now that its base has been decided."""
        if node in self.generators:
            return True
        base = self.base.get(node)
        if base is None:
            return device == self.home_device(node)
        on_base = device in self.versions[base] or any(
            self.device(slot) == device for slot in self.transfers[base]
        )
        return on_base or device == self.home_device(node)

    # Backward: views that only carry another view to its transfer.

    def keep_homes(self) -> None:
        for node in reversed(self.placed.graph.nodes):
            if node not in self.base and node not in self.generators:
                continue
            device = self.home_device(node)
            if node in self.from_home:
                self.versions[node][device] = self.home[node]
            if node in self.base and device in self.versions[node]:
                self.from_home.add(self.base[node])

    def version_slots(self, node: fx.Node) -> tuple[int, ...]:
        if node.op == "output":
            return ()
        if node not in self.generators and node not in self.base:
            return (self.home[node],)
        home = self.home[node]
        return tuple(sorted(self.versions[node].values(), key=lambda slot: (slot != home, slot)))
