"""The lower bound, against simulations and against bounds that are known."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given

from benchmarks.planning.speed import decoder
from fxdevice.bounds import lower_bound_s, work_bound_s
from fxdevice.costs import CostTable, estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.simulate import simulate
from fxdevice.topologies import uniform
from fxdevice.topology import Link, Slot, Topology
from fxdevice.trials import try_strategies
from fxdevice.workload import build_workload
from tests.planner_cases import Case, placed_problems


def operations(*edges: tuple[str, str], num: int = 0) -> Dag:
    """Operations a, b, ... with an edge from the first to the second of every pair."""
    names = sorted({name for edge in edges for name in edge} | {f"o{n}" for n in range(num)})
    return Dag(
        tuple(
            DagNode(
                name,
                NodeKind.COMPUTE,
                tuple(first for first, second in edges if second == name),
                output_bytes=1,
                flops=1,
            )
            for name in names
        )
    )


def problem_of(
    dag: Dag, speeds: tuple[float, ...], pins: dict[str, int] | None = None, transfer_s: float = 1.0
) -> PlacementProblem:
    slots = tuple(Slot(index, f"d{index}") for index in range(len(speeds)))
    topology = Topology(slots, Link(latency_s=0.0, bytes_per_s=1.0 / transfer_s))
    seconds = {node.name: tuple(1.0 / speed for speed in speeds) for node in dag}
    return PlacementProblem(dag, topology, CostTable(seconds), pins or {})


@given(placed_problems(are_limited=False))
def test_no_placement_is_faster(case: Case) -> None:
    problem, slot_of = case
    schedule = simulate(build_workload(problem, slot_of), problem.topology)
    assert lower_bound_s(problem) <= schedule.makespan_s


@given(placed_problems(max_slots=1))
def test_one_slot_leaves_no_gap_but_generators_that_nobody_reads(case: Case) -> None:
    problem, slot_of = case
    dag = Dag(tuple(dataclasses.replace(node, is_recomputable=False) for node in problem.dag))
    problem = dataclasses.replace(problem, dag=dag)
    schedule = simulate(build_workload(problem, slot_of), problem.topology)
    assert lower_bound_s(problem) == pytest.approx(schedule.makespan_s)


def test_work_is_divided_by_speed() -> None:
    problem = problem_of(operations(num=60), (1.0, 2.0, 3.0))
    assert lower_bound_s(problem) == pytest.approx(10.0)


def test_the_weights_adapt_to_devices_that_differ_by_operation() -> None:
    dag = operations(num=40)
    problem = problem_of(dag, (1.0, 1.0))
    seconds = {f"o{n}": (1.0, 4.0) if n < 30 else (1.0, 1.0) for n in range(40)}
    mixed = dataclasses.replace(problem, costs=CostTable(seconds))
    loads = [(30 - a + b, 4 * a + 10 - b) for a in range(31) for b in range(11)]
    best_s = min(map(max, loads))
    assert 0.95 * best_s <= lower_bound_s(mixed) <= best_s


def test_a_chain_takes_the_fastest_slot() -> None:
    problem = problem_of(operations(("a", "b"), ("b", "c")), (1.0, 4.0))
    assert lower_bound_s(problem) == pytest.approx(0.75)


def test_a_pin_forces_a_transfer() -> None:
    dag = operations(("a", "b"))
    assert lower_bound_s(problem_of(dag, (1.0, 1.0), {"a": 0, "b": 1})) == pytest.approx(3.0)
    assert lower_bound_s(problem_of(dag, (1.0, 1.0), {"a": 0})) == pytest.approx(2.0)


def test_state_that_fits_on_one_slot_only_must_come_from_there() -> None:
    state = DagNode("w", NodeKind.STATE, output_bytes=5, may_change=True)
    dag = Dag((state, DagNode("a", NodeKind.COMPUTE, ("w",), output_bytes=1, flops=1)))
    problem = problem_of(dag, (1.0, 10.0))
    slots = (Slot(0, "d0"), Slot(1, "d1", 4))
    topology = dataclasses.replace(problem.topology, slots=slots)
    seconds = CostTable({"w": (0.0, 0.0), "a": (9.0, 0.5)})
    limited = dataclasses.replace(problem, topology=topology, costs=seconds)
    assert lower_bound_s(limited) == pytest.approx(5.5)
    full = dataclasses.replace(limited, resident_bytes=(0, 0), pins={"w": 1})
    assert lower_bound_s(full) == math.inf


def test_of_all_placements_the_best_meets_the_bound_of_equal_branches() -> None:
    dag = operations(("a", "b"), ("c", "d"))
    problem = problem_of(dag, (1.0, 1.0))
    best_s = min(
        simulate(
            build_workload(problem, dict(zip("abcd", slots, strict=True))), problem.topology
        ).makespan_s
        for slots in itertools.product(range(2), repeat=4)
    )
    assert lower_bound_s(problem) == pytest.approx(best_s)


@pytest.mark.parametrize("strategy", ["single", "data", "tensor", "pipeline", "branch"])
@pytest.mark.parametrize("num_devices", [2, 4])
def test_no_strategy_needs_less_than_the_work_takes(strategy: str, num_devices: int) -> None:
    dag = decoder(30)
    topology = uniform(f"{num_devices}xH100-80GB", "nvlink4")
    problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
    (trial,) = try_strategies(problem, (strategy,))
    assert trial.evaluation is not None
    one_slot_s = sum(problem.costs.seconds(node.name, 0) for node in dag)
    assert work_bound_s(problem) == pytest.approx(one_slot_s / num_devices)
    assert work_bound_s(problem) <= trial.evaluation.makespan_s


@given(placed_problems(are_limited=False))
def test_work_is_no_more_than_the_bound_of_whole_operations(case: Case) -> None:
    problem, slot_of = case
    schedule = simulate(build_workload(problem, slot_of), problem.topology)
    assert work_bound_s(problem) <= schedule.makespan_s
