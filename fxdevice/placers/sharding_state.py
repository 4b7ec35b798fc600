"""Where state lives whose pieces several slots read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fxdevice.dag import NodeKind
from fxdevice.dims import Layout
from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.units import Unit, UnitGraph

__all__ = ["unit_slots"]


def unit_slots(
    problem: PlacementProblem,
    graph: UnitGraph,
    layout_of: Mapping[str, Layout],
    slots: Sequence[int],
    home: int,
) -> list[int]:
    """Returns the slot of every unit as a whole.

    Operations are on the home slot, and so is state that an operation reads there. Other state is
    spread over the slots, the largest first, each where most memory is left (or, without limits,
    where the least state is). Pins come before all of that.

    Args:
        problem: What is to be placed.
        graph: Its units.
        layout_of: Layouts of the operations that are not whole on the home slot.
        slots: The slots with pieces.
        home: The home slot.
    """
    found = [home if unit.pin is None else unit.pin for unit in graph.units]
    used = list(problem.resident_bytes or (0,) * len(problem.topology.slots))
    lasting_bytes = [_lasting_bytes(unit) if unit.fixed_bytes else 0 for unit in graph.units]
    spread: list[int] = []
    for index, unit in enumerate(graph.units):
        if unit.pin is None and unit.has_state and not _is_read_whole(problem, layout_of, unit):
            spread.append(index)
        else:
            used[found[index]] += lasting_bytes[index]
    limits = memory_limits(problem)
    total_bytes = sum(used) + sum(lasting_bytes[index] for index in spread)
    # A slot without a limit counts as one that could hold everything.
    room = [
        (total_bytes if limit is None else limit) - used_bytes
        for limit, used_bytes in zip(limits, used, strict=True)
    ]
    for index in sorted(spread, key=lambda index: (-lasting_bytes[index], index)):
        found[index] = max(slots, key=lambda slot: (room[slot], -slot))
        room[found[index]] -= lasting_bytes[index]
    return found


def _is_read_whole(problem: PlacementProblem, layout_of: Mapping[str, Layout], unit: Unit) -> bool:
    users = [user for node in unit.nodes for user in problem.dag.users[node.name]]
    return not users or any(user not in layout_of for user in users)


def _lasting_bytes(unit: Unit) -> int:
    state_bytes = sum(n.output_bytes for n in unit.nodes if n.kind is NodeKind.STATE)
    return state_bytes + sum(node.gradient_bytes for node in unit.nodes)
