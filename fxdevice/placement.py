"""A placement: which slot every node of a Dag runs on, and why (no torch).

The word is the device-placement literature's. It is not DTensor's `Placement` (Shard, Replicate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fxdevice.costs import CostTable
from fxdevice.dag import Dag
from fxdevice.dims import Layout
from fxdevice.memory_model import MemoryOptions
from fxdevice.topology import Topology

__all__ = ["Placement", "PlacementProblem"]


@dataclass(frozen=True)
class PlacementProblem:
    """What a placer is given.

    Attributes:
        dag: The nodes.
        topology: The slots.
        costs: Seconds of every node on every slot.
        pins: Slot of nodes whose place is already decided: state that is resident, nodes of
            modules that the caller pinned. A placer never contradicts a pin. Nodes that must share
            a slot (`Dag.leader_of`) have one pin: that of the first pinned node among them.
        resident_bytes: Bytes that the state of earlier graphs already takes on each slot, without
            the state that is in `dag` too; empty when there is none.
        memory: What else takes memory: the optimizer's state, a margin.
    """

    dag: Dag
    topology: Topology
    costs: CostTable
    pins: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    resident_bytes: tuple[int, ...] = ()
    memory: MemoryOptions = field(default_factory=MemoryOptions)


@dataclass(frozen=True)
class Placement:
    """Slot of every STATE and COMPUTE node, with the reason in a few words.

    Attributes:
        slot_of: Slot index of every node except INPUT nodes.
        reason_of: Why, for a person to read: "stage 1", "pinned", "with its weight", ...
        layout_of: How the divided nodes are divided, and where their pieces are; `slot_of` of such
            a node is the slot where it is made whole when something needs it whole.
        round_of: Round of every node of an expanded graph (see `fxdevice.pieces.Instance`), 0 for
            those that are left out. What is in different rounds runs in different partitions.
    """

    slot_of: Mapping[str, int]
    reason_of: Mapping[str, str]
    layout_of: Mapping[str, Layout] = field(default_factory=lambda: MappingProxyType({}))
    round_of: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
