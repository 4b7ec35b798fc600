"""Copies of state that stay from call to call: what they save in time and take in memory."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

import fxdevice
from fxdevice.bounds import lower_bound_s
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.dims import OpDims
from fxdevice.errors import PlacementError
from fxdevice.evaluate import evaluate
from fxdevice.indexed import is_task
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers import placer_named
from fxdevice.placers.program_memory import program_memory
from fxdevice.simulate import schedule_of
from fxdevice.topology import Link, Slot, Topology, device_of_slots
from fxdevice.workload import build_workload, lasting_bytes, state_bytes
from tests.planner_cases import Case, placed_problems, stays

SPEC = DeviceSpec("x", {"float32": 1e12}, 1e12, launch_s=1e-6)
SLOW = Link(1e-5, 1e9)


def is_state(node: DagNode) -> bool:
    return node.kind is NodeKind.STATE


def root(name: str, dag: Dag) -> str:
    """What a node without work is a view of, if it reads one value only."""
    node = dag[name]
    while node.kind is NodeKind.COMPUTE and not node.has_work and len(node.inputs) == 1:
        node = dag[node.inputs[0]]
    return node.name


def with_plain_views(problem: PlacementProblem) -> PlacementProblem:
    """Lets every view read one value only, and nothing be made again on other slots."""
    nodes = [
        replace(node, inputs=node.inputs if node.has_work else node.inputs[:1])
        for node in problem.dag
    ]
    return replace(problem, dag=Dag(tuple(replace(n, is_recomputable=False) for n in nodes)))


@given(placed_problems())
def test_it_takes_the_time_of_values_that_are_everywhere(case: Case) -> None:
    """What the caller gives is there on every slot from the start."""
    problem, slot_of = with_plain_views(case[0]), case[1]
    dag = problem.dag
    given_nodes = tuple(
        replace(node, kind=NodeKind.INPUT) if is_state(node) and stays(node.name, dag) else node
        for node in dag
    )
    everywhere = replace(problem, dag=Dag(given_nodes))
    assert schedule_of(problem, slot_of).makespan_s == schedule_of(everywhere, slot_of).makespan_s
    assert lower_bound_s(problem) <= schedule_of(problem, slot_of).makespan_s


@given(placed_problems(max_nodes=9, max_slots=3))
def test_copies_are_the_fewest_bytes_that_give_every_device_what_it_reads(case: Case) -> None:
    problem, slot_of = with_plain_views(case[0]), case[1]
    dag, device_of = problem.dag, device_of_slots(problem.topology)
    more = [
        lasting - at_home
        for lasting, at_home in zip(
            lasting_bytes(problem, slot_of), state_bytes(problem, slot_of), strict=True
        )
    ]
    for device in sorted(set(device_of)):
        choices = set()
        for node in filter(is_task, dag):
            if device_of[slot_of[node.name]] != device:
                continue
            for read in node.inputs:
                state = root(read, dag)
                is_away = stays(read, dag) and device_of[slot_of[state]] != device
                if is_away and dag[read].output_bytes:
                    choices.add(tuple(n for n in line(read, dag) if dag[n].output_bytes))
        least = min(
            sum(dag[name].output_bytes for name in set(chosen))
            for chosen in itertools.product(*choices)
        )
        assert sum(more[slot] for slot in range(len(more)) if device_of[slot] == device) == least


def line(name: str, dag: Dag) -> list[str]:
    """A value and all that it is a view of."""
    node = dag[name]
    above = line(node.inputs[0], dag) if node.kind is NodeKind.COMPUTE else []
    return [name, *above]


def two_slots(*nodes: DagNode, link: Link | None = SLOW) -> PlacementProblem:
    slots = tuple(Slot(index, f"cuda:{index}", None, SPEC) for index in range(2))
    dag, topology = Dag(nodes), Topology(slots, link)
    return PlacementProblem(dag, topology, estimate_costs(dag, topology))


def compute(name: str, *inputs: str) -> DagNode:
    return DagNode(name, NodeKind.COMPUTE, inputs, output_bytes=8, flops=1)


W = DagNode("w", NodeKind.STATE, output_bytes=100)


@pytest.mark.parametrize(
    "state",
    [
        replace(W, gradient_bytes=100),
        replace(W, may_change=True),
        replace(W, is_argument=True),
    ],
)
def test_what_changes_is_sent_on_every_call(state: DagNode) -> None:
    problem = two_slots(state, compute("a", "w"))
    workload = build_workload(problem, {"w": 0, "a": 1})
    assert [task.name for task in workload.tasks] == ["w_to1", "a"]
    assert workload.lasting_bytes[1] == 0


def test_what_only_is_read_is_sent_on_none() -> None:
    view = DagNode("v", NodeKind.COMPUTE, ("w",), output_bytes=30)
    problem = two_slots(W, view, compute("a", "v"))
    slot_of = {"w": 0, "v": 0, "a": 1}
    workload = build_workload(problem, slot_of)
    assert [task.name for task in workload.tasks] == ["a"]
    # Of the view only; from start to end.
    assert workload.lasting_bytes == (100, 30)
    found = program_memory(problem, slot_of)
    assert [peak.lasting_bytes for peak in found] == [100, 30]
    assert found[1].total_bytes == 30 + 8


def test_a_view_that_depends_on_a_number_is_sent_on_every_call() -> None:
    size = DagNode("s", NodeKind.INPUT)
    view = DagNode("v", NodeKind.COMPUTE, ("w", "s"), output_bytes=30)
    problem = two_slots(W, size, view, compute("a", "v"))
    workload = build_workload(problem, {"w": 0, "v": 0, "a": 1})
    assert [task.name for task in workload.tasks] == ["v_to1", "a"]
    # Where the whole is copied for another reader, the view is taken of that.
    problem = two_slots(W, size, view, compute("a", "v"), compute("b", "w"))
    workload = build_workload(problem, {"w": 0, "v": 0, "a": 1, "b": 1})
    assert [task.name for task in workload.tasks] == ["a", "b"]
    assert workload.lasting_bytes == (100, 100)
    assert program_memory(problem, {"w": 0, "v": 0, "a": 1, "b": 1})[1].lasting_bytes == 100


def test_a_copy_needs_a_link() -> None:
    problem = two_slots(W, compute("a", "w"), link=None)
    with pytest.raises(PlacementError, match=r"'w_to1' goes from slot 0 .*not connected"):
        build_workload(problem, {"w": 0, "a": 1})


def product(name: str, read: str, weight: str, batch: int, width: int) -> DagNode:
    """[batch, width] x [width, width], label 0 for the batch."""
    return DagNode(
        name,
        NodeKind.COMPUTE,
        (read, weight),
        4 * batch * width,
        2 * batch * width**2,
        8 * batch * width + 4 * width**2,
        shape=(batch, width),
        dims=OpDims({read: (0, 1), weight: (1, 2)}, ((0, 2),), (frozenset({1}),)),
    )


def products(
    batch: int, width: int = 64, num_layers: int = 3, gradient_bytes: int = 0
) -> list[DagNode]:
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=4 * batch * width, shape=(batch, width))]
    size = 4 * width**2
    for layer in range(num_layers):
        weight = DagNode(f"w{layer}", NodeKind.STATE, output_bytes=size, shape=(width, width))
        nodes.append(replace(weight, gradient_bytes=gradient_bytes))
        nodes.append(product(f"y{layer}", nodes[-2].name, f"w{layer}", batch, width))
    nodes[-1] = replace(nodes[-1], is_output=True)
    return nodes


def weights(found: Placement, problem: PlacementProblem) -> tuple[int, int]:
    """Bytes of weights that a call sends, and lasting bytes of the second slot."""
    schedule = evaluate(problem, found).schedule
    sent = [t for t in schedule.workload.tasks if t.source is not None and t.name[0] == "w"]
    return sum(task.output_bytes for task in sent), schedule.workload.lasting_bytes[1]


def test_data_keeps_a_replica_on_every_slot() -> None:
    problem = two_slots(*products(8))
    state = 3 * 4 * 64**2
    assert weights(placer_named("data")(problem), problem) == (0, state)
    trained = two_slots(*products(8, gradient_bytes=4 * 64**2))
    assert weights(placer_named("data")(trained), trained) == (state, 0)


def with_limits(problem: PlacementProblem, *limits: int | None) -> PlacementProblem:
    pairs = zip(problem.topology.slots, limits, strict=True)
    slots = tuple(replace(slot, memory_bytes=limit) for slot, limit in pairs)
    return replace(problem, topology=replace(problem.topology, slots=slots))


def test_data_is_refused_where_a_replica_does_not_fit() -> None:
    problem = two_slots(*products(8))
    state = 3 * 4 * 64**2
    limited = with_limits(problem, None, state)
    with pytest.raises(PlacementError, match=r"slot 1 .* are missing"):
        placer_named("data")(limited)
    limited = with_limits(problem, 2 * state, 2 * state)
    assert evaluate(limited, placer_named("data")(limited)).fits


def test_tensor_takes_a_division_with_small_copies_where_large_ones_do_not_fit() -> None:
    """Rows can be divided without an exchange, with a copy of all weights on every slot."""
    rows, width = 64, 512
    nodes = products(rows, width, num_layers=4)
    # The batch is one of the first two dimensions.
    flat = DagNode(
        "flat",
        NodeKind.COMPUTE,
        ("x",),
        4 * rows * width,
        shape=(rows, width),
        dims=OpDims({"x": (None, None, 0, 1)}, ((0, 1),), (frozenset(),)),
    )
    nodes[0] = replace(nodes[0], shape=(1, 1, rows, width))
    first = nodes[2]
    assert first.dims is not None
    dims = OpDims({"flat": (0, 1), "w0": (1, 2)}, first.dims.outputs, first.dims.sums)
    nodes[2] = replace(first, inputs=("flat", "w0"), dims=dims)
    nodes.insert(1, flat)
    problem = two_slots(*nodes)
    state = 4 * 4 * width**2
    free = placer_named("tensor")(problem)
    peaks = [peak.total_bytes for peak in evaluate(problem, free).memory]
    tight = with_limits(problem, *[max(peaks) - state // 8] * 2)
    found = placer_named("tensor")(tight)
    assert evaluate(tight, found).fits
    most = max(evaluate(problem, free).schedule.workload.lasting_bytes)
    assert max(evaluate(tight, found).schedule.workload.lasting_bytes) < most


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(self.up(x).relu())
        return result


def bytes_moved(model: nn.Module, *, training: bool) -> int:
    plan = fxdevice.plan(
        model, torch.ones(16, 64), devices="2xH100-80GB", strategy="data", training=training
    )
    return plan.prediction.transfer_bytes


def test_plans_of_inference_and_of_frozen_weights_send_none() -> None:
    model = Layers()
    size = sum(4 * p.numel() for p in model.parameters())
    plan = fxdevice.plan(model, torch.ones(16, 64), devices="2xH100-80GB", strategy="data")
    assert [slot.state_bytes for slot in plan.prediction.slots] == [size, size]
    inference = bytes_moved(model, training=False)
    trained = bytes_moved(model, training=True)
    model.up.requires_grad_(False)
    frozen = bytes_moved(model, training=True)
    up = sum(4 * p.numel() for p in model.up.parameters())
    # Weights go out, and gradients come back.
    assert inference < size < 2 * size <= trained
    assert trained - frozen >= 2 * up


class Pieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        torch._dynamo.graph_break()
        result: Tensor = self.second(hidden)
        return result


def test_copies_of_earlier_graphs_are_there_in_later_ones() -> None:
    model = Pieces()
    size = sum(4 * p.numel() for p in model.parameters())
    plan = fxdevice.plan(model, torch.ones(4, 64), devices="2xH100-80GB", strategy="data")
    assert len(plan.graphs) == 2
    for slot in plan.prediction.slots:
        assert slot.state_bytes == size
        # Each graph has half of the state; the values of a graph take much less.
        assert size < slot.peak_bytes < 1.2 * size
