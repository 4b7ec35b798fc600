"""A placement: which slot every node of a Dag runs on, and why (no torch).

The word is the device-placement literature's. It is not DTensor's `Placement` (Shard, Replicate).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar, cast

from fxdevice.costs import CostTable
from fxdevice.dag import Dag, NodeKind
from fxdevice.derived import Derives
from fxdevice.dims import Layout
from fxdevice.errors import PlacementError
from fxdevice.memory_model import MemoryOptions
from fxdevice.topology import Topology

__all__ = ["Placement", "PlacementProblem", "ordered_problem"]

_A = TypeVar("_A")
_T = TypeVar("_T")


@dataclass(frozen=True)
class PlacementProblem(Derives):
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

    def for_last(self, analysis: Callable[[PlacementProblem, _A], _T], placed: _A) -> _T:
        """Returns what an analysis finds for one way to place this problem.

        A placer looks at what it proposes, and then its proposal is judged: what was found for
        the last argument is kept, so that nothing is done twice.

        Args:
            analysis: A pure function.
            placed: Its argument, such as a placement; known again by its identity.
        """
        known = self._last.get(analysis)
        if known is None or known[0] is not placed:
            known = self._last[analysis] = (placed, analysis(self, placed))
        return cast(_T, known[1])

    @cached_property
    def _last(self) -> dict[Callable[..., Any], tuple[Any, Any]]:
        return {}


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
        origin_of: For pieces and copies in an expanded graph the node that they come from.
        order: The STATE and COMPUTE nodes in the order in which they are to run; empty for the
            order of the Dag. Each comes after what it reads.
    """

    slot_of: Mapping[str, int]
    reason_of: Mapping[str, str]
    layout_of: Mapping[str, Layout] = field(default_factory=lambda: MappingProxyType({}))
    round_of: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    origin_of: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    order: tuple[str, ...] = ()

    @property
    def used_slots(self) -> frozenset[int]:
        """The slots that hold or compute anything."""
        pieces = {slot for layout in self.layout_of.values() for slot in layout.slots}
        return frozenset(pieces.union(self.slot_of.values()))


def ordered_problem(problem: PlacementProblem, order: tuple[str, ...]) -> PlacementProblem:
    """Returns the same problem with its nodes in another order, inputs first.

    Args:
        problem: What was placed.
        order: `Placement.order`.

    Raises:
        PlacementError: It does not name every node once, or a node comes before one that it reads.
    """
    if not order:
        return problem
    by_name = problem.dag.by_name
    inputs = [node for node in problem.dag if node.kind is NodeKind.INPUT]
    if len(inputs) + len(order) != len(by_name) or not by_name.keys() >= set(order):
        raise PlacementError(
            f"expected an order of the {len(by_name) - len(inputs)} nodes that have a slot; found "
            f"{len(order)} names. Plan the model anew"
        )
    try:
        dag = Dag((*inputs, *(by_name[name] for name in order)))
    except ValueError as error:
        raise PlacementError(f"the order of a placement cannot be run: {error}") from error
    return replace(problem, dag=dag)
