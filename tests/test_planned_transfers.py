"""The planner moves the same values to the same devices as the pass that writes the transfers."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings

from fxdevice.costs import CostTable
from fxdevice.dag import NodeKind
from fxdevice.indexed import indexed
from fxdevice.passes.estimate_costs import GraphInput, estimate_costs
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Slot, Topology
from fxdevice.transfer_op import is_transfer, transfer_source
from fxdevice.views import moves_of
from fxdevice.workload import build_workload
from tests.graph_strategies import SIM_SLOTS, VIEW_OPERATIONS, Case, cases

SLOTS = SIM_SLOTS[:3]


def test_the_workload_has_the_transfers_of_the_placed_graph() -> None:
    num_transfers = num_copies = 0

    @settings(max_examples=60)
    @given(cases(SLOTS, operations=VIEW_OPERATIONS, tracing_mode="fake"))
    def compare(case: Case) -> None:
        nonlocal num_transfers, num_copies
        # Every value stays where it is made: the workload does not know where results end.
        ends = (None,) * len(case.placed.output_slots)
        placed = dataclasses.replace(case.placed, output_slots=ends)
        finished = insert_transfers(placed)
        expected = {
            (transfer_source(node).name, finished.slot_of(node).device.index)
            for node in finished.graph.nodes
            if is_transfer(node)
        }
        graph = case.placed.graph
        state = {
            n.name: GraphInput(n.name, NodeKind.STATE) for n in graph.find_nodes(op="placeholder")
        }
        dag = estimate_costs(graph, state)
        slots = tuple(Slot(slot.index, str(slot.device)) for slot in SLOTS)
        costs = CostTable({node.name: (1.0,) * len(slots) for node in dag})
        problem = PlacementProblem(dag, Topology(slots), costs)
        slot_of = {n.name: case.placed.slot_of(n).index for n in graph.nodes if n.op != "output"}
        tasks = build_workload(problem, slot_of).tasks
        found = {
            (task.name.rpartition("_to")[0], SLOTS[task.slot].device.index)
            for task in tasks
            if task.source is not None
        }
        names = indexed(dag).names
        copies = {
            (names[index], SLOTS[slot].device.index)
            for index, places in moves_of(problem, slot_of).copies.items()
            for _, slot in places
        }
        assert found | copies == expected
        assert not found & copies
        num_transfers += len(found)
        num_copies += len(copies)

    compare()
    assert num_transfers > 30
    assert num_copies > 30
