"""What can start first is scheduled first: against a look at all pairs of a step and a slot."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.placers.branch_search import levels
from fxdevice.placers.coarse_graph import units_as_nodes
from fxdevice.placers.earliest_start import earliest_starts
from fxdevice.placers.units import unit_graph
from tests.placers.coarse_problems import on_slots as placed_on
from tests.placers.coarse_problems import operation, operations, towers
from tests.strategies import problems


def by_looking_at_all(problem: PlacementProblem) -> dict[str, int]:
    """Returns the slots of operations of which each is a unit, by the definition."""
    dag, topology = problem.dag, problem.topology
    slots = range(len(topology.slots))
    slot_of: dict[str, int] = {}
    end_s: dict[str, float] = {}
    idle_s = dict.fromkeys(slots, 0.0)
    channel_s = dict.fromkeys(itertools.product(slots, slots), 0.0)
    arrived_s: dict[tuple[str, int], float] = {}

    def arrival_s(name: str, slot: int) -> float:
        if dag[name].kind is NodeKind.INPUT:
            return 0.0
        if slot_of[name] == slot:
            return end_s[name]
        pair = (slot_of[name], slot)
        moved_s = topology.transfer_s(dag[name].output_bytes, *pair)
        return arrived_s.get((name, slot), max(end_s[name], channel_s[pair]) + moved_s)

    def start_s(node: DagNode, slot: int) -> float:
        return max([idle_s[slot], *(arrival_s(name, slot) for name in node.inputs)])

    left = [node for node in dag if node.kind is NodeKind.COMPUTE]
    while left:
        ready = [node for node in left if not {n.name for n in left} & set(node.inputs)]
        _, first, slot = min(
            (start_s(node, slot), dag.nodes.index(node), slot) for node in ready for slot in slots
        )
        node = dag.nodes[first]
        idle_s[slot] = end_s[node.name] = start_s(node, slot) + problem.costs.seconds(
            node.name, slot
        )
        for name in node.inputs:
            if name in slot_of and slot_of[name] != slot and (name, slot) not in arrived_s:
                channel_s[slot_of[name], slot] = arrived_s[name, slot] = arrival_s(name, slot)
        slot_of[node.name] = slot
        left.remove(node)
    return slot_of


@settings(max_examples=80)
@given(operations(max_operations=9, has_pins=False))
def test_the_earliest_of_all_pairs_is_taken(problem: PlacementProblem) -> None:
    graph = unit_graph(problem)
    coarse = units_as_nodes(graph)
    by_program, _ = earliest_starts(coarse, (math.inf,) * graph.num_slots)
    assert dict(graph.slot_of(coarse.unit_slots(by_program))) == by_looking_at_all(problem)


@settings(max_examples=60)
@given(problems(max_nodes=20))
def test_pins_are_kept_and_every_node_has_a_slot(problem: PlacementProblem) -> None:
    graph = unit_graph(problem)
    if graph.units:
        (coarse,) = levels(graph)
        room = (0.0, *(math.inf,) * (graph.num_slots - 1))
        for slots in earliest_starts(coarse, room):
            for node, slot in zip(coarse.nodes, slots, strict=True):
                assert slot == node.pin or (node.pin is None and 0 <= slot < graph.num_slots)


def test_memory_that_is_used_up_sends_what_follows_elsewhere() -> None:
    problem = placed_on(towers(2, 10, state_bytes=1000))
    graph = unit_graph(problem)
    (coarse,) = levels(graph)
    for slots in earliest_starts(coarse, (5_000.0, math.inf)):
        kept = sum(n.fixed_bytes for n, slot in zip(coarse.nodes, slots, strict=True) if not slot)
        assert 0 < kept <= 5_000


def test_the_longest_path_goes_first_among_equals() -> None:
    # In program order both slots begin with what nothing waits for.
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=1)]
    nodes += [operation(name, ("x",)) for name in ("a", "b", "c0")]
    nodes += [operation("c1", ("c0",)), operation("c2", ("c1",))]
    graph = unit_graph(placed_on(Dag(tuple(nodes))))
    _, by_rank = earliest_starts(units_as_nodes(graph), (math.inf, math.inf))
    slot_of = graph.slot_of(by_rank)
    assert slot_of["c0"] == slot_of["c1"] == slot_of["c2"] != slot_of["a"] == slot_of["b"]
