"""The baselines against what holds for all placements, and those that call or imitate tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from accelerate import infer_auto_device_map
from hypothesis import given, settings
from torch import nn

from benchmarks.planning.baselines import Placer, accelerate_auto, baselines
from benchmarks.planning.baselines.accelerator_partitioner import (
    cost_aware_partitioner,
    kl_partitioner,
    size_partitioner,
)
from benchmarks.planning.baselines.even_layers import even_layers
from benchmarks.planning.baselines.groups import task_graph
from benchmarks.planning.baselines.heft import heft
from benchmarks.planning.baselines.m_etf import m_etf
from benchmarks.planning.baselines.pieces import forward_pieces
from benchmarks.planning.baselines.round_robin import round_robin
from benchmarks.planning.baselines.single_device import single_device
from benchmarks.planning.judge import judge
from fxdevice.costs import CostTable, estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.topology import Slot, Topology
from tests.planner_cases import leader_pins
from tests.planning_graphs import (
    BYTE_PER_S,
    Timed,
    fork_join,
    layers,
    operation,
    state,
    timed,
    topology,
)
from tests.strategies import problems

ALL = dict(baselines())
LIST_SCHEDULERS = ("m_topo", "m_etf", "m_sct", "heft")
PARTITIONERS = ("size_partitioner", "cost_aware_partitioner", "kl_partitioner")

# What holds for all of them.


def check_placement(
    problem: PlacementProblem, place: Placer, is_deterministic: bool = True
) -> Mapping[str, int] | None:
    """Return the placement after the checks that hold for all of them; None when there is none."""
    try:
        slot_of = place(problem)
    except PlacementError:
        return None
    dag = problem.dag
    assert set(slot_of) == {node.name for node in dag if node.kind is not NodeKind.INPUT}
    assert set(slot_of.values()) <= set(range(len(problem.topology.slots)))
    assert all(slot_of[name] == slot_of[dag.leader_of[name]] for name in slot_of)
    assert all(slot_of[name] == pin for name, pin in leader_pins(problem).items())
    assert not any(excess_bytes(problem, slot_of, memory_limits(problem)))
    if is_deterministic:
        assert place(problem) == slot_of
    return slot_of


@pytest.mark.parametrize("name", [name for name in ALL if name not in PARTITIONERS])
@given(problem=problems())
@settings(max_examples=30)
def test_placements_are_whole_and_respect_pins_and_limits(
    name: str, problem: PlacementProblem
) -> None:
    check_placement(problem, ALL[name])


@pytest.mark.parametrize("name", PARTITIONERS)
@given(problem=problems(max_nodes=10))
@settings(max_examples=15)
def test_partitions_are_whole_and_respect_pins_and_limits(
    name: str, problem: PlacementProblem
) -> None:
    check_placement(problem, ALL[name], is_deterministic=name != "kl_partitioner")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("num_slots", [1, 3])
def test_every_baseline_places_an_ordinary_model(name: str, num_slots: int) -> None:
    problem = layers(6, topology(num_slots))
    slot_of = check_placement(problem, ALL[name], is_deterministic=name != "kl_partitioner")
    assert slot_of is not None
    # All operations follow each other, so more slots make no placement faster.
    work_s = sum(problem.costs.seconds(node.name, 0) for node in problem.dag)
    assert judge(problem, slot_of).makespan_s >= work_s - 1e-12 > 0


@pytest.mark.parametrize("name", ALL)
def test_an_empty_graph_has_an_empty_placement(name: str) -> None:
    where = topology(2)
    assert ALL[name](PlacementProblem(Dag(()), where, CostTable({}))) == {}


@pytest.mark.parametrize("name", ALL)
def test_too_little_memory_is_an_error(name: str) -> None:
    with pytest.raises(PlacementError):
        ALL[name](layers(6, topology(2, memory_bytes=2000)))


@pytest.mark.parametrize("name", [*LIST_SCHEDULERS, "even_layers", "size_partitioner"])
def test_two_slots_hold_what_one_cannot(name: str) -> None:
    # 6 layers of 1,000 bytes of state, and a few bytes more.
    slot_of = check_placement(layers(6, topology(2, memory_bytes=3500)), ALL[name])
    assert slot_of is not None
    assert set(slot_of.values()) == {0, 1}


# Even layers.


def test_layers_are_divided_evenly_with_the_rest_at_the_ends() -> None:
    slot_of = even_layers(layers(5, topology(2)))
    assert [slot_of[f"mm{index}"] for index in range(5)] == [0, 0, 0, 1, 1]
    assert all(slot_of[f"w{i}"] == slot_of[f"add{i}"] == slot_of[f"mm{i}"] for i in range(5))
    assert (slot_of["table"], slot_of["embed"]) == (0, 0)
    assert (slot_of["w"], slot_of["head"]) == (1, 1)


def path_slots(paths: list[str], num_slots: int) -> list[int]:
    nodes: list[Timed] = [
        (operation(f"op{index}", *[f"op{index - 1}"] * bool(index), module=path), 1.0)
        for index, path in enumerate(paths)
    ]
    slot_of = even_layers(timed(nodes, topology(num_slots)))
    return [slot_of[f"op{index}"] for index in range(len(paths))]


def test_operations_between_blocks_go_with_the_block_before() -> None:
    assert path_slots(["", "h.0", "", "h.1", ""], 2) == [0, 0, 0, 1, 1]


def test_blocks_of_several_lists_are_counted_together() -> None:
    stages = ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]
    assert path_slots(stages, 2) == [0, 0, 0, 1, 1, 1]


def test_inner_lists_count_when_there_are_few_outer_ones() -> None:
    paths = [f"stages.{i}.blocks.{j}.mlp" for i in range(2) for j in range(4)]
    assert path_slots(paths, 2) == [0] * 4 + [1] * 4
    assert path_slots(paths, 4) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_without_blocks_operations_are_divided_evenly() -> None:
    assert path_slots(["a", "b", "c", "d", "e", "e"], 3) == [0, 0, 1, 1, 2, 2]


# Accelerate.


class Blocks(nn.Module):
    """Three blocks and a head, with a class that must not be split."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)) for _ in range(3)
        )
        self.head = nn.Linear(64, 64)
        self._no_split_modules = ["Sequential"]


def accelerate_case(where: Topology) -> tuple[PlacementProblem, nn.Module, dict[str, str]]:
    with torch.device("meta"):
        model = Blocks()
    nodes: list[DagNode] = []
    name_of: dict[str, str] = {}
    last: tuple[str, ...] = ()
    for name, parameter in model.named_parameters():
        path = name.rpartition(".")[0]
        placeholder = f"p_{len(nodes)}"
        name_of[placeholder] = name
        nodes += [
            state(placeholder, parameter.nbytes),
            operation(f"op_{name}", placeholder, *last, module=path),
            operation(f"glue_{name}", f"op_{name}"),
        ]
        last = (f"glue_{name}",)
    dag = Dag(tuple(nodes))
    return PlacementProblem(dag, where, estimate_costs(dag, where)), model, name_of


def test_accelerate_decides_where_state_is_and_operations_follow() -> None:
    problem, model, name_of = accelerate_case(topology(3, memory_bytes=10**5))
    slot_of = accelerate_auto(problem, model, name_of)
    # The parameters take 7 * 16,640 bytes. A third and 1.25 blocks of margin is the balanced
    # amount; the last slot has its limit.
    share = 7 * 16_640 // 3 + 33_280 * 5 // 4
    expected = infer_auto_device_map(
        model, {0: share, 1: share, 2: 10**5}, no_split_module_classes=["Sequential"]
    )
    assert len(set(expected.values())) > 1
    for placeholder, name in name_of.items():
        (slot,) = (slot for path, slot in expected.items() if name.startswith(f"{path}."))
        assert slot_of[placeholder] == slot_of[f"op_{name}"] == slot_of[f"glue_{name}"] == slot


def test_accelerate_keeps_pins() -> None:
    problem, model, name_of = accelerate_case(topology(3))
    free = accelerate_auto(problem, model, name_of)
    other = (free["p_0"] + 1) % 3
    assert accelerate_auto(replace(problem, pins={"p_0": other}), model, name_of)["p_0"] == other


def test_accelerate_that_offloads_is_an_error() -> None:
    problem, model, name_of = accelerate_case(topology(2, memory_bytes=60_000))
    with pytest.raises(PlacementError, match="Accelerate offloads"):
        accelerate_auto(problem, model, name_of)


# The partitioner of PyTorch.


def test_size_partitioner_fills_slots_in_order() -> None:
    slot_of = size_partitioner(layers(6, topology(3)))
    found = [slot_of[f"mm{index}"] for index in range(6)]
    assert found == sorted(found)
    assert len(set(found)) > 1


def test_size_partitioner_uses_one_slot_that_has_room() -> None:
    slot_of = size_partitioner(layers(6, topology(3, memory_bytes=10**6)))
    assert len(set(slot_of.values())) == 1


def test_a_failure_of_the_partitioner_is_reported() -> None:
    with pytest.raises(PlacementError, match="Devices do not have enough memory for the module"):
        cost_aware_partitioner(layers(6, topology(2, memory_bytes=2500)))
    with pytest.raises(PlacementError, match="kl_partitioner: the partitioner failed"):
        kl_partitioner(layers(6, topology(2, memory_bytes=2500)))


@pytest.mark.parametrize("max_pieces", [1, 3, 5, 100])
def test_pieces_are_runs_that_cover_the_forward_pass(max_pieces: int) -> None:
    tasks = task_graph(layers(6, topology(1)))
    pieces = forward_pieces(tasks, max_pieces)
    assert [task for piece in pieces for task in piece] == list(range(len(tasks.nodes)))
    assert len(pieces) == min(max_pieces, 14)  # embed, t and mm, add of 6 layers, head
    assert all(pieces)


# Sanity baselines and the judge.


def test_round_robin_deals_groups_out() -> None:
    nodes: list[Timed] = [(operation(f"op{index}"), 1.0) for index in range(4)]
    slot_of = round_robin(timed(nodes, topology(3)))
    assert [slot_of[f"op{index}"] for index in range(4)] == [0, 1, 2, 0]


def test_single_device_takes_the_fastest_with_room() -> None:
    nodes: list[Timed] = [
        (state("w", 100), 0.0),
        (operation("a", "w"), (3.0, 1.0, 2.0)),
    ]
    assert single_device(timed(nodes, topology(3)))["a"] == 1
    tight = Topology((Slot(0, "cuda:0"), Slot(1, "cuda:1", 50), Slot(2, "cuda:2")), BYTE_PER_S)
    assert single_device(timed(nodes, tight))["a"] == 2


def test_the_judge_of_a_fork_and_join_by_hand() -> None:
    # As imagined by ETF, but join waits for b, which is transferred 5-7.
    problem = fork_join()
    found = judge(problem, m_etf(problem))
    assert found.makespan_s == pytest.approx(8.0)
    assert found.fits
    small = replace(problem, topology=topology(2, memory_bytes=max(found.peak_bytes) - 1))
    assert not judge(small, m_etf(problem)).fits


@given(problems(are_limited=False, has_pins=False))
@settings(max_examples=30)
def test_the_judge_never_beats_the_work_of_a_slot(problem: PlacementProblem) -> None:
    slot_of = heft(problem)
    busy_s = [0.0] * len(problem.topology.slots)
    for name, slot in slot_of.items():
        if not problem.dag[name].is_recomputable:  # made where it is read, if it is
            busy_s[slot] += problem.costs.seconds(name, slot)
    assert judge(problem, slot_of).makespan_s >= max(busy_s) - 1e-12
