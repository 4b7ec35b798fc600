"""The exact solver, against the simulation of every assignment."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice import exact
from fxdevice.costs import CostTable
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.errors import FxDeviceError, PlacementError
from fxdevice.exact import ExactResult, exact_placement
from fxdevice.placement import PlacementProblem
from fxdevice.placers.coarsen import coarsen
from fxdevice.placers.units import unit_graph
from fxdevice.simulate import simulate
from fxdevice.slot_symmetry import equal_slots, in_order_of_use
from fxdevice.topology import Link, Slot, Topology
from fxdevice.workload import build_workload, state_bytes
from tests.strategies import problems

ENOUGH_S = 60.0


def makespan_s(problem: PlacementProblem, slot_of: Mapping[str, int]) -> float:
    return simulate(build_workload(problem, slot_of), problem.topology).makespan_s


def placements(problem: PlacementProblem, parts: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Every placement of the parts that respects pins and has memory for state and gradients.

    Args:
        problem: What is to be placed.
        parts: Part of every STATE and COMPUTE node.
    """
    pins: dict[int, int] = {}
    for unit in unit_graph(problem).units:
        if unit.pin is not None:
            pins[parts[unit.name]] = unit.pin
    slots = range(len(problem.topology.slots))
    empty = state_bytes(dataclasses.replace(problem, dag=Dag(())), {})
    limits = [slot.memory_bytes for slot in problem.topology.slots]
    names = sorted(set(parts.values()))
    for chosen in itertools.product(*([pins[n]] if n in pins else slots for n in names)):
        slot_of_part = dict(zip(names, chosen, strict=True))
        slot_of = {name: slot_of_part[part] for name, part in parts.items()}
        held = state_bytes(problem, slot_of)
        if all(
            limit is None or num_bytes <= max(limit, resident)
            for limit, num_bytes, resident in zip(limits, held, empty, strict=True)
        ):
            yield slot_of


@st.composite
def machines_with_buses(draw: st.DrawFn, problem: PlacementProblem) -> PlacementProblem:
    """Gives a problem devices of its own for all slots, slow links, and shared channels."""
    slots = tuple(
        dataclasses.replace(slot, device=f"d{slot.index}", queue=draw(st.sampled_from([None, 0])))
        for slot in problem.topology.slots
    )
    links = {
        (source.index, destination.index): draw(
            st.sampled_from([Link(1e-3, 1e6, channel="bus"), Link(1e-5, 1e5), None])
        )
        for source, destination in itertools.permutations(slots, 2)
    }
    return dataclasses.replace(problem, topology=Topology(slots, None, links))


any_problems = problems(max_nodes=7, max_slots=3)
bus_problems = any_problems.flatmap(machines_with_buses)


def check(problem: PlacementProblem, parts: Mapping[str, int]) -> ExactResult | None:
    """Compares the result with all placements of the parts; returns it unless there is none."""
    found = []
    for slot_of in placements(problem, parts):
        try:
            found.append(makespan_s(problem, slot_of))
        except PlacementError:  # not connected
            continue
    if not found:
        with pytest.raises(PlacementError):
            exact_placement(problem, max_seconds=ENOUGH_S)
        return None
    result = exact_placement(problem, max_seconds=ENOUGH_S)
    assert result.makespan_s == makespan_s(problem, result.slot_of)
    assert result.bound_s <= min(found) <= result.makespan_s
    if result.is_optimal:
        assert result.makespan_s <= min(found) * (1.0 + 2e-4)
    return result


def units(problem: PlacementProblem) -> Mapping[str, int]:
    return unit_graph(problem).unit_of


@given(bus_problems | any_problems, st.data())
def test_equal_slots_can_be_exchanged(problem: PlacementProblem, data: st.DataObject) -> None:
    everywhere = tuple(range(len(problem.topology.slots)))
    free = dataclasses.replace(problem, pins={})
    groups = equal_slots(free, [everywhere])
    slot_of = {name: data.draw(st.sampled_from(everywhere)) for name in units(free)}
    for first, second in (pair for group in groups for pair in itertools.combinations(group, 2)):
        other = {first: second, second: first}
        exchanged = {name: other.get(slot, slot) for name, slot in slot_of.items()}
        try:
            expected = makespan_s(free, slot_of)
        except PlacementError:  # not connected
            with pytest.raises(PlacementError):
                makespan_s(free, exchanged)
        else:
            assert makespan_s(free, exchanged) == pytest.approx(expected)


def test_slots_with_different_times_queues_or_devices_are_not_equal() -> None:
    problem = chains(3, 2)
    assert equal_slots(problem, [(0, 1, 2)]) == ((0, 1, 2),)
    assert equal_slots(problem, [(0, 1, 2), (2,)]) == ((0, 1),)
    assert equal_slots(with_slot(problem, device="d1"), [(0, 1, 2)]) == ()
    assert equal_slots(with_slot(problem, queue=0), [(0, 1, 2)]) == ((0, 1),)
    assert equal_slots(with_slot(problem, memory_bytes=9), [(0, 1, 2)]) == ((0, 1),)
    seconds = {name: (*row[:2], 2.0 * row[2]) for name, row in problem.costs.seconds_of.items()}
    slower = dataclasses.replace(problem, costs=CostTable(seconds))
    assert equal_slots(slower, [(0, 1, 2)]) == ((0, 1),)
    assert in_order_of_use((2, 0, 2), [(0, 1, 2)]) == (0, 1, 0)


def with_slot(
    problem: PlacementProblem,
    device: str = "d2",
    queue: int | None = None,
    memory_bytes: int | None = None,
) -> PlacementProblem:
    """Replaces the last of three slots."""
    last = Slot(2, device, memory_bytes, queue=queue)
    topology = dataclasses.replace(problem.topology, slots=(*problem.topology.slots[:2], last))
    return dataclasses.replace(problem, topology=topology)


@given(any_problems)
def test_the_bound_holds_for_every_placement(problem: PlacementProblem) -> None:
    check(problem, units(problem))


@given(bus_problems)
def test_the_bound_holds_with_channels_and_missing_links(problem: PlacementProblem) -> None:
    check(problem, units(problem))


@given(any_problems)
def test_the_bound_holds_for_every_placement_of_coarse_nodes(problem: PlacementProblem) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_MAX_NODES", 2)
        graph = unit_graph(problem)
        if len(graph.units) > 2:
            coarse = coarsen(graph, 2)
            check(problem, {n: coarse.node_of[unit] for n, unit in graph.unit_of.items()})


def chains(num_slots: int, *lengths: int, memory_bytes: int | None = None) -> PlacementProblem:
    """Chains of operations of a second each, each with state of ten bytes that a call changes."""
    nodes = []
    for chain, length in enumerate(lengths):
        for index in range(length):
            name = f"{chain}_{index}"
            before = (f"h{chain}_{index - 1}",) if index else ()
            state = DagNode(f"w{name}", NodeKind.STATE, output_bytes=10, may_change=True)
            nodes.append(state)
            nodes.append(
                DagNode(
                    f"h{name}", NodeKind.COMPUTE, (*before, f"w{name}"), output_bytes=1, flops=1
                )
            )
    slots = tuple(Slot(index, f"d{index}", memory_bytes) for index in range(num_slots))
    seconds = {n.name: (float(n.has_work),) * num_slots for n in nodes}
    topology = Topology(slots, Link(latency_s=0.25, bytes_per_s=4.0))
    return PlacementProblem(Dag(tuple(nodes)), topology, CostTable(seconds))


def test_independent_chains_run_side_by_side() -> None:
    result = exact_placement(chains(3, 3, 2, 2, 1), max_seconds=ENOUGH_S)
    assert result.is_optimal
    assert result.makespan_s == 3.0
    assert result.gap == pytest.approx(0.0, abs=1e-4)


def test_limits_of_memory_cut_a_chain_in_two() -> None:
    result = exact_placement(chains(2, 4, memory_bytes=20), max_seconds=ENOUGH_S)
    slots = [result.slot_of[f"w0_{index}"] for index in range(4)]
    assert sorted(slots) == [0, 0, 1, 1]
    assert result.is_optimal
    assert result.makespan_s == 4.5


def test_memory_that_is_too_small_is_an_error() -> None:
    with pytest.raises(PlacementError, match=r"30 bytes of state and gradients.*\[14, 14\]"):
        exact_placement(chains(2, 3, memory_bytes=14), max_seconds=ENOUGH_S)
    with pytest.raises(PlacementError, match="some state fits on no slot"):
        exact_placement(chains(2, 1, memory_bytes=9), max_seconds=ENOUGH_S)


def test_a_hint_is_never_made_worse() -> None:
    problem = chains(2, 6, 6)
    hint = {name: int(name[1]) for name in problem.dag.by_name}
    result = exact_placement(problem, max_seconds=1e-3, hint=hint)
    assert result.makespan_s <= makespan_s(problem, hint)


def test_the_same_result_every_time() -> None:
    problem = chains(2, 4, 3, 2)
    first = exact_placement(problem, max_seconds=ENOUGH_S)
    assert exact_placement(problem, max_seconds=ENOUGH_S) == first


def test_nothing_to_place() -> None:
    result = exact_placement(chains(2), max_seconds=ENOUGH_S)
    assert (result.slot_of, result.makespan_s, result.gap) == ({}, 0.0, 0.0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fxdevice.exact_model", raising=False)
    monkeypatch.delitem(sys.modules, "fxdevice.exact_channels", raising=False)
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(ImportError, match=r"pip install 'fxdevice\[exact\]'") as caught:
        exact_placement(chains(2, 1), max_seconds=ENOUGH_S)
    assert isinstance(caught.value, FxDeviceError)
