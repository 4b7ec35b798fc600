"""The steps that coarse nodes are divided into."""

from __future__ import annotations

from fxdevice.costs import CostTable
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.exact_steps import Read, Step, Value, step_graph
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Link, Slot, Topology


def compute(name: str, *inputs: str, num_bytes: int = 8, work: bool = True) -> DagNode:
    return DagNode(name, NodeKind.COMPUTE, inputs, output_bytes=num_bytes, flops=int(work))


def test_steps_end_where_others_read_and_begin_where_they_read_others() -> None:
    dag = Dag(
        (
            DagNode("w", NodeKind.STATE, output_bytes=5, gradient_bytes=2),
            compute("b0"),
            compute("a1"),
            compute("a2", "a1"),
            compute("a3", "a2", "b0"),
            compute("view", "a3", num_bytes=3, work=False),
            compute("a4", "a3", "w"),
            compute("a5", "a4"),
            compute("b1", "view"),
        )
    )
    seconds = {node.name: (float(node.has_work) * index,) for index, node in enumerate(dag)}
    problem = PlacementProblem(dag, Topology((Slot(0, "cpu"),)), CostTable(seconds))
    node_of = {node.name: int(node.name.startswith("b")) for node in dag}
    graph = step_graph(problem, node_of, 2)
    assert graph.values == (Value(1, 0, 8), Value(0, 2, 3))
    assert graph.lasting_bytes == (7, 0)
    assert graph.steps == (
        Step(1, (1.0,), continues=False, after=(), reads=()),
        Step(0, (2.0 + 3.0,), continues=False, after=(), reads=()),
        Step(0, (4.0,), continues=True, after=(0,), reads=(Read(0, 8),)),
        Step(0, (6.0 + 7.0,), continues=True, after=(), reads=()),
        Step(1, (8.0,), continues=False, after=(2,), reads=(Read(1, 3),)),
    )


def test_state_of_another_node_is_read_from_the_start() -> None:
    weight = DagNode("w", NodeKind.STATE, output_bytes=5, gradient_bytes=5)
    dag = Dag((weight, compute("a"), compute("b", "a", "w")))
    costs = CostTable({node.name: (1.0,) for node in dag})
    problem = PlacementProblem(dag, Topology((Slot(0, "cpu"),)), costs)
    graph = step_graph(problem, {"w": 1, "a": 0, "b": 0}, 2)
    assert graph.values == (Value(1, None, 5),)
    assert [step.reads for step in graph.steps] == [(), (Read(0, 5),)]


def test_state_whose_copies_stay_needs_a_link_at_most() -> None:
    dag = Dag((DagNode("w", NodeKind.STATE, output_bytes=5), compute("a", "w")))
    costs = CostTable({node.name: (1.0, 1.0) for node in dag})
    slots = (Slot(0, "a"), Slot(1, "b"))
    for link, values, reads in (
        (Link(), (), ()),
        (None, (Value(1, None, 0),), (Read(0, 0),)),
    ):
        problem = PlacementProblem(dag, Topology(slots, link), costs)
        graph = step_graph(problem, {"w": 1, "a": 0}, 2)
        assert graph.values == values
        assert graph.steps[0].reads == reads


def test_what_is_no_tensor_is_waited_for_but_does_not_move() -> None:
    dag = Dag((compute("a", num_bytes=0), compute("b", "a")))
    costs = CostTable({node.name: (1.0,) for node in dag})
    problem = PlacementProblem(dag, Topology((Slot(0, "cpu"),)), costs)
    graph = step_graph(problem, {"a": 0, "b": 1}, 2)
    assert graph.steps[1] == Step(1, (1.0,), continues=False, after=(0,), reads=())
    assert graph.values == ()
