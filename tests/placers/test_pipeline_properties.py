"""What must hold of the pipeline placer for any graph."""

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.program_memory import program_memory
from fxdevice.placers.single import place_single
from fxdevice.topology import Link, Slot, Topology
from tests.placers import oracle
from tests.placers.encoder import Block, residual_chain
from tests.strategies import problems, topologies


def placed(problem: PlacementProblem) -> Placement:
    """Places, or gives up the example when the limits allow no placement."""
    try:
        return place_pipeline(problem)
    except PlacementError:
        assume(False)
        raise


@given(problems(are_limited=False))
def test_every_node_is_placed_for_a_reason(problem: PlacementProblem) -> None:
    placement = place_pipeline(problem)
    names = {node.name for node in problem.dag if node.kind is not NodeKind.INPUT}
    assert set(placement.slot_of) == names
    assert set(placement.reason_of) == names
    assert all(placement.reason_of.values())
    assert set(placement.slot_of.values()) <= set(range(len(problem.topology.slots)))


@given(problems())
def test_pins_are_respected(problem: PlacementProblem) -> None:
    placement = placed(problem)
    for names in oracle.classes(problem.dag):
        pinned = [problem.pins[name] for name in names if name in problem.pins]
        if pinned:
            assert {placement.slot_of[name] for name in names} == {pinned[0]}


@given(problems())
def test_nodes_share_the_slot_of_what_they_follow(problem: PlacementProblem) -> None:
    placement = placed(problem)
    for names in oracle.classes(problem.dag):
        assert len({placement.slot_of[name] for name in names}) == 1


@given(problems())
def test_memory_limits_are_respected(problem: PlacementProblem) -> None:
    placement = placed(problem)
    assume(placement.slot_of)  # What is resident already does not stop an empty graph.
    needed = program_memory(problem, placement.slot_of)
    for slot, memory in zip(problem.topology.slots, needed, strict=True):
        assert slot.memory_bytes is None or memory.total_bytes <= slot.memory_bytes


@given(problems())
def test_same_problem_gives_same_placement(problem: PlacementProblem) -> None:
    assert placed(problem) == placed(problem)


@given(problems())
def test_names_do_not_matter(problem: PlacementProblem) -> None:
    names = [node.name for node in problem.dag]
    renamed = {name: f"m{len(names) - index:03}" for index, name in enumerate(names)}
    nodes = tuple(
        dataclasses.replace(
            node,
            name=renamed[node.name],
            inputs=tuple(renamed[name] for name in node.inputs),
            follows=renamed[node.follows] if node.follows else None,
        )
        for node in problem.dag
    )
    dag = Dag(nodes)
    other = dataclasses.replace(
        problem,
        dag=dag,
        costs=estimate_costs(dag, problem.topology),
        pins={renamed[name]: slot for name, slot in problem.pins.items()},
    )
    expected = {renamed[name]: slot for name, slot in placed(problem).slot_of.items()}
    assert placed(other).slot_of == expected


@given(problems())
def test_no_allowed_move_of_one_unit_saves_transfers(problem: PlacementProblem) -> None:
    devices = {slot.device for slot in problem.topology.slots}
    assume(len(devices) == len(problem.topology.slots))
    slot_of = dict(placed(problem).slot_of)
    price_s = oracle.transfer_s(problem.dag, problem.topology, slot_of)
    load_s = oracle.loads_s(problem, slot_of)
    for names in oracle.classes(problem.dag):
        if any(name in problem.pins for name in names):
            continue
        for slot in problem.topology.slots:
            moved = slot_of | dict.fromkeys(names, slot.index)
            moved_s = oracle.loads_s(problem, moved)
            if max(moved_s) > max(load_s) or moved_s.count(0) > load_s.count(0):
                continue
            needed = program_memory(problem, moved)
            if all(
                other.memory_bytes is None or memory.total_bytes <= other.memory_bytes
                for other, memory in zip(problem.topology.slots, needed, strict=True)
            ):
                found_s = oracle.transfer_s(problem.dag, problem.topology, moved)
                assert found_s >= price_s - 1e-11


@st.composite
def heavy_problems(draw: st.DrawFn, min_nodes: int = 0) -> PlacementProblem:
    """Draws operations that take much longer than any transfer, on slots of equal speed."""
    topology = draw(topologies(are_equal=True, share_devices=False))
    num_nodes = draw(st.integers(min_nodes, 8))
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=100)]
    for index in range(num_nodes):
        names = [node.name for node in nodes]
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        flops = draw(st.integers(1, 20)) * 10**6
        num_bytes = draw(st.sampled_from([10, 1_000, 5_000]))
        nodes.append(DagNode(f"n{index}", NodeKind.COMPUTE, tuple(inputs), num_bytes, flops))
    dag = Dag(tuple(nodes))
    return PlacementProblem(dag, topology, estimate_costs(dag, topology))


@given(heavy_problems())
def test_balance_and_transfers_against_brute_force(problem: PlacementProblem) -> None:
    names = [node.name for node in problem.dag if node.kind is NodeKind.COMPUTE]
    num_slots = len(problem.topology.slots)
    rows = []
    for cuts in oracle.all_cuts(len(names), num_slots):
        slot_of = dict(zip(names, oracle.stages_of(cuts), strict=True))
        load_s = oracle.loads_s(problem, slot_of)
        price_s = oracle.transfer_s(problem.dag, problem.topology, slot_of)
        rows.append((max(load_s), load_s.count(0), price_s))
    optimum_s = min(bottleneck_s for bottleneck_s, _, _ in rows)
    num_idle = max(0, num_slots - len(names))
    balanced = [row for row in rows if row[0] <= 1.15 * optimum_s and row[1] == num_idle]
    slot_of = dict(place_pipeline(problem).slot_of)
    assert max(oracle.loads_s(problem, slot_of)) <= 1.15 * optimum_s * (1 + 1e-9)
    found_s = oracle.transfer_s(problem.dag, problem.topology, slot_of)
    assert found_s <= min(price_s for _, _, price_s in balanced) + 1e-11


@st.composite
def residual_problems(draw: st.DrawFn) -> PlacementProblem:
    """Draws equal layers of blocks with and without residual, on equal slots."""
    flops = st.lists(st.integers(1, 20), min_size=1, max_size=4)
    layer = []
    for _ in range(draw(st.integers(1, 2))):
        linears = tuple(10**7 * value for value in draw(flops))
        layer.append((linears, draw(st.booleans()), draw(st.sampled_from([1_000, 50_000]))))
    blocks = [Block(f"b{i}", *block) for i, block in enumerate(layer * draw(st.integers(2, 4)))]
    dag = residual_chain(blocks, has_backward=draw(st.booleans()))
    num_slots = draw(st.integers(2, 3))
    topology = Topology(tuple(Slot(index, f"cuda:{index}") for index in range(num_slots)))
    return PlacementProblem(dag, topology, estimate_costs(dag, topology))


def plain_stages(dag: Dag, num_slots: int) -> Iterator[dict[str, int]]:
    """Yields every way to cut the operations of `residual_chain` where they stand.

    Views and state stand where they are read first, everything of the backward pass where its
    forward operation does; for the sum of gradients that is the norm of its block.
    """
    forward = itertools.takewhile(lambda node: node.name != "tangent", dag)
    names = [n.name for n in forward if n.kind is NodeKind.COMPUTE and n.has_work]
    for cuts in oracle.all_cuts(len(names), num_slots):
        stage_of = dict(zip(names, oracle.stages_of(cuts), strict=True))
        if len(set(stage_of.values())) == num_slots:
            yield _completed(dag, stage_of)


def _completed(dag: Dag, stage_of: dict[str, int]) -> dict[str, int]:
    for node in reversed(dag.nodes):
        # From the end, so that a transposed weight has its slot before its weight asks for it.
        readers = [u for u in dag.users[node.name] if u in stage_of and not dag[u].is_backward]
        if node.kind is NodeKind.STATE or node.name.endswith("_t"):
            stage_of[node.name] = stage_of[readers[0]]
    for node in dag:
        if node.name.endswith(("_sum", "_twice")):
            stage_of[node.name] = stage_of[node.name.rpartition("_")[0] + "_norm"]
        elif node.kind is NodeKind.COMPUTE and node.name not in stage_of:
            stage_of[node.name] = stage_of[node.follows or node.inputs[0]]
    return stage_of


@given(residual_problems())
def test_no_plain_cut_is_better_in_time_and_in_transfers(problem: PlacementProblem) -> None:
    dag, topology = problem.dag, problem.topology
    slot_of = place_pipeline(problem).slot_of
    bottleneck_s = max(oracle.loads_s(problem, slot_of))
    price_s = oracle.transfer_s(dag, topology, slot_of)
    for plain in plain_stages(dag, len(topology.slots)):
        if max(oracle.loads_s(problem, plain)) < bottleneck_s * (1 - 1e-9):
            assert oracle.transfer_s(dag, topology, plain) >= price_s - 1e-11


@given(heavy_problems(min_nodes=4))
def test_every_equal_slot_gets_work(problem: PlacementProblem) -> None:
    slots = set(place_pipeline(problem).slot_of.values())
    assert slots == set(range(len(problem.topology.slots)))


@given(problems())
def test_what_fits_on_one_slot_is_placed(problem: PlacementProblem) -> None:
    try:
        place_single(problem)
    except PlacementError:
        assume(False)
    assert place_pipeline(problem).slot_of.keys() == place_single(problem).slot_of.keys()


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_empty_graph(num_slots: int) -> None:
    topology = Topology(tuple(Slot(index, f"cuda:{index}") for index in range(num_slots)))
    for nodes in ((), (DagNode("x", NodeKind.INPUT, output_bytes=4),)):
        dag = Dag(nodes)
        problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
        assert place_pipeline(problem) == Placement({}, {})


def test_unequal_slots_get_unequal_shares() -> None:
    specs = [DeviceSpec("slow", {"float32": 1e6}, 1e12), DeviceSpec("fast", {"float32": 3e6}, 1e12)]
    slots = tuple(Slot(index, f"cuda:{index}", spec=spec) for index, spec in enumerate(specs))
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=8)]
    for index in range(40):
        source = nodes[-1].name
        nodes.append(DagNode(f"n{index}", NodeKind.COMPUTE, (source,), 8, flops=10**6))
    dag, topology = Dag(tuple(nodes)), Topology(slots, Link())
    problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
    slot_of = place_pipeline(problem).slot_of
    order = [slot_of[f"n{index}"] for index in range(40)]
    assert order == sorted(order)
    assert order.count(0) == 10
    assert len(list(itertools.groupby(order))) == 2
