"""m-TOPO: fill one slot after the other in topological order, up to a balanced share of memory.

    (1) The cap is (sum of d_i) / s + max of d_i, for s slots and d_i bytes of group i.
    (2) Go through the groups in topological order of their first tasks and put them on slot 0
        while its bytes stay within the cap; then on slot 1, and so on.

What the paper leaves open: it supposes that every device has more memory than the cap. Here the cap
of a slot is at most its limit. Pinned groups are placed first and count. d_i are the lasting bytes
of a group (see `groups`): of a model without state everything goes to slot 0.

Complexity: O(n + e).

Source: Jeon et al., "Baechi: Fast Device Placement of Machine Learning Graphs", SoCC 2020, section
"m-TOPO" (arXiv 2301.08695).
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.planning.baselines.groups import task_graph
from benchmarks.planning.baselines.room import Room, within_limits
from benchmarks.planning.baselines.timeline import no_slot
from fxdevice.placement import PlacementProblem

__all__ = ["m_topo"]


def m_topo(problem: PlacementProblem) -> Mapping[str, int]:
    """Places by m-TOPO.

    Args:
        problem: What is to be placed.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: The last slot is full before everything is placed.
    """
    return within_limits("m_topo", problem, _place)


def _place(problem: PlacementProblem) -> Mapping[str, int]:
    tasks, room = task_graph(problem), Room(problem)
    sizes = [group.fixed_bytes for group in tasks.groups]
    cap = sum(sizes) // tasks.num_slots + max(sizes, default=0)  # (1)
    slots = [group.pin for group in tasks.groups]
    for group in tasks.groups:
        if group.pin is not None:
            room.add(group, group.pin)
    # A group without tasks, which nobody reads, comes last.
    slot = 0
    for index in dict.fromkeys((*tasks.group_of, *range(len(tasks.groups)))):  # (2)
        group = tasks.groups[index]
        if slots[index] is None:
            while slot < tasks.num_slots and not (
                room.fits(group, slot) and room.fixed_bytes[slot] + group.fixed_bytes <= cap
            ):
                slot += 1
            if slot == tasks.num_slots:
                raise no_slot("m_topo", tasks, group)
            slots[index] = slot
            room.add(group, slot)
    return tasks.slot_of([slot for slot in slots if slot is not None])
