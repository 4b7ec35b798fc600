"""The strategy `branch` against brute force, bounds and simple placements."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from unittest import mock

import pytest
from hypothesis import assume, given, settings

from fxdevice.bounds import lower_bound_s
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.evaluate import evaluate
from fxdevice.placement import PlacementProblem, ordered_problem
from fxdevice.placers import branch
from fxdevice.placers.branch import place_branch
from fxdevice.placers.branch_search import Candidate, levels, search
from fxdevice.placers.coarse_order import dispatched_s
from fxdevice.placers.coarse_time import CoarseTime
from fxdevice.placers.earliest_start import earliest_starts
from fxdevice.placers.local_search import LocalSearch
from fxdevice.placers.memory import memory_limits, needed_memory
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.placers.units import unit_graph
from fxdevice.topology import Link, Slot, Topology
from tests.placers import oracle
from tests.placers.coarse_problems import (
    FAST,
    SLOW,
    blocks,
    makespan_s,
    on_slots,
    operation,
    operations,
    towers,
)
from tests.strategies import problems


def placed_s(problem: PlacementProblem) -> float:
    return evaluate(problem, place_branch(problem)).makespan_s


def fits(problem: PlacementProblem, slot_of: Mapping[str, int]) -> bool:
    return not any(excess_bytes(problem, slot_of, memory_limits(problem)))


def all_placements(problem: PlacementProblem) -> Iterator[Mapping[str, int]]:
    """Yields every placement of the units that respects the pins."""
    graph = unit_graph(problem)
    slots = range(graph.num_slots)
    choices = (slots if unit.pin is None else (unit.pin,) for unit in graph.units)
    for found in itertools.product(*choices):
        yield graph.slot_of(list(found))


def single_s(problem: PlacementProblem) -> float:
    """Returns the shortest makespan of everything that is not pinned on one slot."""
    graph = unit_graph(problem)
    found = []
    for slot in range(graph.num_slots):
        slot_of = graph.slot_of([slot if u.pin is None else u.pin for u in graph.units])
        if fits(problem, slot_of):
            found.append(makespan_s(problem, slot_of))
    return min(found, default=float("inf"))


@settings(max_examples=60)
@given(operations())
def test_small_graphs_are_placed_best(problem: PlacementProblem) -> None:
    best_s = min(makespan_s(problem, slot_of) for slot_of in all_placements(problem))
    # An order of its own may be faster than all of these; a thousandth is not searched for.
    assert lower_bound_s(problem) <= placed_s(problem) <= best_s * (1 + 1e-3)


@settings(max_examples=60)
@given(problems(max_nodes=20))
def test_placements_are_valid(problem: PlacementProblem) -> None:
    try:
        placement = place_branch(problem)
    except PlacementError:
        assume(False)
    names = {node.name for node in problem.dag if node.kind is not NodeKind.INPUT}
    assert set(placement.slot_of) == set(placement.reason_of) == names
    assert all(placement.reason_of.values())
    assert set(placement.slot_of.values()) <= set(range(len(problem.topology.slots)))
    assert not names or fits(ordered_problem(problem, placement.order), dict(placement.slot_of))
    for members in oracle.classes(problem.dag):
        pinned = [problem.pins[name] for name in members if name in problem.pins]
        found = {placement.slot_of[name] for name in members}
        assert len(found) == 1
        assert not pinned or found == {pinned[0]}
    assert placement == place_branch(problem)


@settings(max_examples=60)
@given(problems(max_nodes=20))
def test_never_slower_than_one_slot_or_stages(problem: PlacementProblem) -> None:
    best_s = single_s(problem)
    try:
        stages = dict(place_pipeline(problem).slot_of)
        best_s = min(best_s, makespan_s(problem, stages) * 1.1)
    except PlacementError:
        assume(best_s < float("inf"))
    assert placed_s(problem) <= best_s * (1 + 1e-9)


@settings(max_examples=30)
@given(operations(max_operations=30, has_pins=False))
def test_never_slower_than_what_starts_earliest(problem: PlacementProblem) -> None:
    graph = unit_graph(problem)
    finest = levels(graph)[0]
    room = tuple(math.inf if limit is None else float(limit) for limit in memory_limits(problem))
    found = [graph.slot_of(finest.unit_slots(slots)) for slots in earliest_starts(finest, room)]
    times_s = [makespan_s(problem, slot_of) for slot_of in found if fits(problem, slot_of)]
    # The search estimates large graphs only, and few of its candidates are simulated.
    poor = Candidate(0.0, (0,) * len(finest.nodes))
    with mock.patch.multiple(
        branch, _LISTED_WORK=0, search=lambda *_, **__: [poor], place_in_spans=lambda *_: []
    ):
        found_s = placed_s(problem)
    # All on one slot is taken without a search where that is a thousandth slower at most.
    assert found_s <= min(times_s, default=math.inf) * (1 + 1e-3)


@given(problems(max_nodes=20))
def test_names_do_not_matter(problem: PlacementProblem) -> None:
    def renamed(name: str) -> str:
        return f"m{100 - int(name[1:])}"

    nodes = tuple(
        dataclasses.replace(
            node,
            name=renamed(node.name),
            inputs=tuple(map(renamed, node.inputs)),
            follows=renamed(node.follows) if node.follows else None,
        )
        for node in problem.dag
    )
    dag = Dag(nodes)
    costs = estimate_costs(dag, problem.topology)
    pins = {renamed(name): slot for name, slot in problem.pins.items()}
    other = dataclasses.replace(problem, dag=dag, costs=costs, pins=pins)
    try:
        expected = place_branch(problem).slot_of
    except PlacementError:
        assume(False)
    found = place_branch(other).slot_of
    assert found == {renamed(name): slot for name, slot in expected.items()}


@settings(max_examples=60)
@given(operations(max_operations=7, has_pins=False))
def test_local_search_alone_comes_near_the_best(problem: PlacementProblem) -> None:
    (coarse,) = levels(unit_graph(problem))
    time = CoarseTime(coarse)
    slots = range(coarse.num_slots)
    every = itertools.product(slots, repeat=len(coarse.nodes))
    best_s = min(time.makespan_s(found) for found in every)
    search_ = LocalSearch(coarse, (float("inf"),) * coarse.num_slots)
    begun = [search_.improve([slot] * len(coarse.nodes), 10**6) for slot in slots]
    for found, found_s in begun:
        assert found_s == time.makespan_s(found)
    assert min(found_s for _, found_s in begun) <= 1.25 * best_s


@pytest.mark.parametrize("num_towers", [2, 3, 4])
def test_equal_towers_take_a_share_of_the_time(num_towers: int) -> None:
    problem = on_slots(towers(num_towers, 40), num_towers)
    slot_of = place_branch(problem).slot_of
    found_s = makespan_s(problem, dict(slot_of))
    assert found_s == pytest.approx(single_s(problem) / num_towers, rel=0.01)
    for tower in range(num_towers):
        assert len({slot for n, slot in slot_of.items() if n.startswith(f"t{tower}_")}) == 1


def test_blocks_of_branches_are_divided_when_transfers_are_cheap() -> None:
    # The longest branch has 3 of 8 layers, on three slots the others have 5 / 2.
    problem = on_slots(blocks(9, (1, 2, 3, 2)), 3)
    bound_s = single_s(problem) * 3 / 8
    assert bound_s <= placed_s(problem) <= 1.02 * bound_s


def test_many_blocks_are_divided_too() -> None:
    problem = on_slots(blocks(150, (1, 2, 3, 2)), 3)
    assert placed_s(problem) <= 1.02 * single_s(problem) * 3 / 8


def test_blocks_of_branches_stay_together_when_transfers_are_dear() -> None:
    problem = on_slots(blocks(9, (1, 2, 3, 2)), 3, SLOW)
    placement = place_branch(problem)
    assert len(set(placement.slot_of.values())) == 1
    assert set(placement.reason_of.values()) == {"all on slot 0: no division found is faster"}


def test_towers_are_divided_by_the_speed_of_the_slots() -> None:
    # Four towers take 4/4 of the time on the fast slot, 3/4 with one on the slow slot.
    problem = on_slots(towers(4, 20), speeds=(1, 3))
    assert placed_s(problem) <= 1.01 * single_s(problem) * 3 / 4


def test_memory_limits_force_a_division_that_is_good() -> None:
    dag = towers(2, 20, state_bytes=1000)
    # Each slot has room for one of the towers and a little more, but not for both.
    problem = on_slots(dag, link=Link(1e-3, 1e9), limit=30_000)
    slot_of = dict(place_branch(problem).slot_of)
    assert fits(problem, slot_of)
    unlimited = on_slots(dag, link=Link(1e-3, 1e9))
    assert makespan_s(problem, slot_of) <= 1.1 * placed_s(unlimited)


def test_a_chain_that_fits_no_slot_is_cut_few_times() -> None:
    problem = on_slots(blocks(30, (1,)), link=Link(1e-3, 1e9), limit=20_000)
    slot_of = dict(place_branch(problem).slot_of)
    assert fits(problem, slot_of)
    # One transfer of about a millisecond besides the work of a single slot.
    unlimited = on_slots(blocks(30, (1,)), link=Link(1e-3, 1e9))
    assert makespan_s(problem, slot_of) <= single_s(unlimited) + 2.1e-3


def test_working_memory_counts() -> None:
    dag = Dag(
        (
            DagNode("x", NodeKind.INPUT, output_bytes=10),
            *(operation(f"a{index}", ("x",), num_bytes=1000) for index in range(6)),
            operation("sum", [f"a{index}" for index in range(6)], 10**6, 10),
        )
    )
    problem = on_slots(dag, 3, limit=7000)
    slot_of = dict(place_branch(problem).slot_of)
    assert fits(problem, slot_of)
    assert max(m.working_bytes for m in needed_memory(problem, slot_of)) > 1000


def test_what_fits_nowhere_is_an_error_that_says_what_is_missing() -> None:
    problem = on_slots(towers(2, 5), limit=100)
    with pytest.raises(PlacementError, match=r"more than any slot allows|missing"):
        place_branch(problem)


def test_pins_decide_even_against_the_time() -> None:
    problem = on_slots(towers(2, 5))
    pinned = dataclasses.replace(problem, pins={"t0_0_w": 1, "t1_4": 1})
    placement = place_branch(pinned)
    assert placement.slot_of["t0_0_w"] == placement.slot_of["t1_4"] == 1
    assert placement.reason_of["t1_4"] == "pinned to slot 1"


def test_slots_without_a_link_are_used_apart() -> None:
    dag = towers(2, 3)
    slots = tuple(Slot(index, f"cuda:{index}") for index in range(2))
    topology = Topology(slots, None)
    problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
    assert len(set(place_branch(problem).slot_of.values())) == 1


def test_slots_that_share_a_queue_are_no_faster() -> None:
    base = on_slots(towers(2, 10), link=FAST)
    slots = tuple(dataclasses.replace(slot, queue=0) for slot in base.topology.slots)
    topology = Topology(slots, FAST)
    problem = PlacementProblem(base.dag, topology, base.costs)
    assert len(set(place_branch(problem).slot_of.values())) == 1


def test_reasons_name_branches_and_readers() -> None:
    placement = place_branch(on_slots(towers(2, 4)))
    slot = placement.slot_of["t0_0_mm"]
    assert placement.reason_of["t0_0_mm"] == f"earliest finish on slot {slot}"
    assert placement.reason_of["t0_3"] == f"with its branch from t0_0_mm on slot {slot}"
    assert placement.reason_of["t0_2_w"] == f"with its reader t0_2_mm on slot {slot}"


def test_an_empty_graph_has_an_empty_placement() -> None:
    assert place_branch(on_slots(Dag(()))).slot_of == {}


def test_search_returns_placements_by_makespan() -> None:
    graphs = levels(unit_graph(on_slots(blocks(40, (1, 2, 3)))))
    assert len(graphs) == 2
    found = search(graphs, (float("inf"), float("inf")))
    times = [candidate.makespan_s for candidate in found]
    assert times == sorted(times)
    time = CoarseTime(graphs[0])
    assert times == [
        min(time.makespan_s(candidate.slots), dispatched_s(graphs[0], candidate.slots))
        for candidate in found
    ]
