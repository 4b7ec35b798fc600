"""What a placement costs, computed the slow and plain way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from fxdevice.dag import Dag, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Topology
from tests.planner_cases import stays


def transfers(dag: Dag, slot_of: Mapping[str, int]) -> set[tuple[str, int, int]]:
    """Returns (value, source slot, destination slot) of every transfer that costs something."""
    return {
        (node.name, slot_of[node.name], slot_of[reader.name])
        for node in dag
        if node.kind is not NodeKind.INPUT and node.output_bytes and not node.is_recomputable
        for reader in dag
        if node.name in reader.inputs and slot_of[reader.name] != slot_of[node.name]
    }


def transfer_s(dag: Dag, topology: Topology, slot_of: Mapping[str, int]) -> float:
    """Returns the seconds of all transfers; the gradient of transferred state comes back.

    Copies of state that stay take none.
    """
    total = 0.0
    for name, source, destination in transfers(dag, slot_of):
        if stays(name, dag):
            continue
        total += topology.transfer_s(dag[name].output_bytes, source, destination)
        if dag[name].gradient_bytes:
            total += topology.transfer_s(dag[name].gradient_bytes, destination, source)
    return total


def loads_s(problem: PlacementProblem, slot_of: Mapping[str, int]) -> list[float]:
    found = [0.0 for _ in problem.topology.slots]
    for name, slot in slot_of.items():
        found[slot] += problem.costs.seconds(name, slot)
    return found


def classes(dag: Dag) -> list[list[str]]:
    """Returns the sets of nodes that must share a slot, by following `follows` one by one."""
    found: dict[str, list[str]] = {}
    for node in dag:
        leader = node
        while leader.follows and dag[leader.follows].kind is not NodeKind.INPUT:
            leader = dag[leader.follows]
        if node.kind is not NodeKind.INPUT:
            found.setdefault(leader.name, []).append(node.name)
    return list(found.values())


def all_cuts(num_items: int, num_stages: int) -> Iterator[tuple[int, ...]]:
    for inner in itertools.combinations_with_replacement(range(num_items + 1), num_stages - 1):
        yield (0, *inner, num_items)


def stages_of(cuts: Sequence[int]) -> list[int]:
    """Returns the stage of every item."""
    return [stage for stage in range(len(cuts) - 1) for _ in range(cuts[stage], cuts[stage + 1])]


def memory_bytes(problem: PlacementProblem, slot_of: Mapping[str, int], slot: int) -> int:
    """Returns the bytes that one slot needs, for graphs without views."""
    dag, nodes = problem.dag, problem.dag.nodes
    lasting = problem.resident_bytes[slot] if problem.resident_bytes else 0
    for node in nodes:
        if node.kind is not NodeKind.INPUT and slot_of[node.name] == slot:
            state_bytes = node.output_bytes if node.kind is NodeKind.STATE else 0
            lasting += state_bytes + node.gradient_bytes
            lasting += node.saved_bytes if _is_kept(dag, slot_of, node.name) else 0
        elif stays(node.name, dag):
            is_read = any(slot_of[user] == slot for user in dag.users[node.name])
            lasting += node.output_bytes if is_read else 0
    peak = 0
    for time in range(len(nodes) + 1):
        peak = max(peak, sum(_alive_bytes(dag, slot_of, slot, time, name) for name in dag.by_name))
    return lasting + peak


def _alive_bytes(dag: Dag, slot_of: Mapping[str, int], slot: int, time: int, name: str) -> int:
    order = [node.name for node in dag]
    node, is_home = dag[name], slot_of.get(name) == slot
    is_kept = node.saved_bytes and _is_kept(dag, slot_of, name)
    if (is_home and (is_kept or node.kind is NodeKind.STATE)) or stays(name, dag):
        return 0
    reads = [order.index(user) for user in dag.users[name] if slot_of[user] == slot]
    made = order.index(name)
    if node.kind is not NodeKind.COMPUTE:
        alive = bool(reads) and min(reads) <= time <= max(reads)
    elif is_home:
        is_result = not dag.users[name] and not node.is_backward
        alive = made <= time <= (len(order) if is_result else max([made, *reads]))
    else:
        alive = bool(reads) and made <= time <= max(reads)
    return node.output_bytes if alive else 0


def _is_kept(dag: Dag, slot_of: Mapping[str, int], name: str) -> bool:
    """A saved value is kept where backward reads it; without a reader, where it is made."""
    slots = {slot_of[user] for user in dag.users[name] if dag[user].is_backward}
    return not slots or slot_of[name] in slots
