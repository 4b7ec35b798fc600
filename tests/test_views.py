"""What moves, against every choice that there is."""

from __future__ import annotations

import itertools

from hypothesis import given

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.indexed import indexed, is_generator, is_task
from fxdevice.topology import device_of_slots
from fxdevice.views import plan_moves
from tests.planner_cases import Case, placed_problems, stays


def base(node: DagNode, dag: Dag) -> str | None:
    """The node that a node without work is a view of."""
    if node.kind is not NodeKind.COMPUTE or node.has_work or not node.inputs:
        return None
    with_bytes = [name for name in node.inputs if dag[name].output_bytes]
    return [*with_bytes, *node.inputs][0]


def line(node: DagNode, dag: Dag) -> list[DagNode]:
    """A node, its base, the base of that, ... to the root."""
    above = base(node, dag)
    return [node] if above is None else [node, *line(dag[above], dag)]


def has_home(node: DagNode) -> bool:
    return node.kind is NodeKind.STATE or (is_task(node) and not is_generator(node))


@given(placed_problems(max_nodes=10, max_slots=3))
def test_the_fewest_bytes_move(case: Case) -> None:
    problem, slot_of = case
    dag, device_of = problem.dag, device_of_slots(problem.topology)
    graph = indexed(dag)
    slot_at = [slot_of.get(name, -1) for name in graph.names]
    moves = plan_moves(graph, slot_at, device_of)
    readers = [
        (node, slot)
        for node in dag
        if is_task(node)
        for slot in (
            [slot for _, slot in moves.versions.get(graph.names.index(node.name), ())]
            if is_generator(node)
            else [slot_of[node.name]]
        )
    ]
    for device in sorted(set(device_of)):
        needed = []
        for reader, slot in readers:
            for read in (dag[name] for name in reader.inputs):
                root = line(read, dag)[-1]
                away = has_home(root) and device_of[slot_of[root.name]] != device
                if device_of[slot] == device and away and read.output_bytes:
                    needed.append({n.name for n in line(read, dag) if n.output_bytes})
        moved = {
            graph.names[index]
            for index, places in [*moves.transfers.items(), *moves.copies.items()]
            if device in [d for d, _ in places]
        }
        assert all(names & moved for names in needed)
        candidates = sorted(set().union(*needed))
        least = min(
            sum(dag[name].output_bytes for name in chosen)
            for count in range(len(candidates) + 1)
            for chosen in itertools.combinations(candidates, count)
            if all(names & set(chosen) for names in needed)
        )
        assert sum(dag[name].output_bytes for name in moved) == least
    assert all(stays(graph.names[index], dag) for index in moves.copies)
    assert not any(stays(graph.names[index], dag) for index in moves.transfers)
