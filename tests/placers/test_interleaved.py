"""Several stages on every slot: their order, their idle time, their memory, and when they pay."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, NodeKind
from fxdevice.dims import OpDims
from fxdevice.expand import expand
from fxdevice.expanded import expanded_placement
from fxdevice.pieces import Role
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers import micro_batches
from fxdevice.placers.batch import find_batch
from fxdevice.placers.chain import build_chain
from fxdevice.placers.divided import divided_seconds
from fxdevice.placers.interleaved import interleave
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.micro_batches import place_micro_batched, with_micro_batches
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.pipeline_steps import simulated_steps_s
from fxdevice.placers.pipeline_time import PipelineWork
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.placers.stages import plan_interleaved
from fxdevice.placers.units import unit_graph
from fxdevice.topology import Link
from tests.placers.test_data import chain, problem
from tests.strategies import problems

FREE = Link(0.0, 1e15)


def layers(
    num_slots: int, num_layers: int = 24, *, training: bool = False, link: Link = FREE
) -> PlacementProblem:
    """Returns equal layers of a batch of 64; the backward pass takes as long as the forward one."""
    nodes = chain(batch=64, width=256, num_layers=num_layers)
    products = [node for node in nodes if node.kind is NodeKind.COMPUTE]
    gradient = products[-1].name
    for node in reversed(products if training else []):
        weight = node.inputs[1]
        dims = OpDims({gradient: (0, 2), weight: (1, 2)}, ((0, 1),), (frozenset({2}),))
        nodes.append(
            replace(
                node,
                name=f"{node.name}_grad",
                inputs=(gradient, weight),
                dims=dims,
                is_backward=True,
                follows=node.name,
            )
        )
        gradient = nodes[-1].name
    drawn = problem(nodes, speeds=(1.0,) * num_slots)
    return replace(drawn, topology=replace(drawn.topology, default_link=link))


def placed(drawn: PlacementProblem, stages_per_slot: int, num_pieces: int) -> Placement:
    division = find_batch(drawn, num_pieces)
    assert division is not None
    if stages_per_slot == 1:
        return with_micro_batches(place_pipeline(drawn), division)
    stages = interleave(unit_graph(drawn), stages_per_slot)
    assert stages is not None
    return with_micro_batches(stages.placement, division, stages.lap_of)


def idle_share(drawn: PlacementProblem, placement: Placement) -> float:
    """Returns the idle time of a slot over its busy time."""
    expanded, slot_of = expanded_placement(drawn, placement)
    busy_s = sum(expanded.costs.seconds(name, slot) for name, slot in slot_of.items())
    return divided_seconds(drawn, placement) * len(drawn.topology.slots) / busy_s - 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("num_slots", "num_pieces"), [(2, 2), (2, 8), (4, 4), (4, 8), (3, 4)])
@pytest.mark.parametrize("stages_per_slot", [1, 2, 4])
def test_idle_time_is_divided_by_the_stages_of_a_slot(
    num_slots: int, num_pieces: int, stages_per_slot: int, training: bool
) -> None:
    drawn = layers(num_slots, 4 * num_slots, training=training)
    share = idle_share(drawn, placed(drawn, stages_per_slot, num_pieces))
    # The simulation also joins the pieces of the result.
    assert share == pytest.approx((num_slots - 1) / (stages_per_slot * num_pieces), abs=0.01)


def test_a_slot_takes_all_pieces_of_a_stage_before_the_next_stage() -> None:
    drawn = layers(3, 6)
    placement = placed(drawn, 2, 4)
    rounds = {
        one.name: (one.slot, one.round)
        for one in expand(drawn.dag, placement).instances
        if one.role is Role.PIECE
    }
    for stage, piece in itertools.product(range(6), range(4)):
        lap, slot = divmod(stage, 3)
        assert rounds[f"y{stage}_piece{piece}"] == (slot, 4 * lap + slot + piece)


def test_backward_goes_the_laps_in_reverse() -> None:
    drawn = layers(2, 4, training=True)
    instances = expand(drawn.dag, placed(drawn, 2, 2)).instances
    order = [one.name for one in instances if one.slot == 1 and one.role is Role.PIECE]
    stages = ["y1", "y3", "y3_grad", "y1_grad"]
    assert order == [f"{stage}_piece{piece}" for stage in stages for piece in range(2)]


@pytest.mark.parametrize("link", [FREE, Link(1e-4, 1e10), Link(1e-3, 1e9)])
@pytest.mark.parametrize(("stages_per_slot", "num_pieces"), [(1, 4), (2, 2), (2, 8), (3, 4)])
def test_steps_take_what_their_operations_take(
    link: Link, stages_per_slot: int, num_pieces: int
) -> None:
    drawn = layers(3, 18, training=True, link=link)
    placement = placed(drawn, stages_per_slot, num_pieces)
    exact_s = divided_seconds(drawn, placement)
    assert simulated_steps_s(drawn, placement) == pytest.approx(exact_s, rel=0.03)
    if link is FREE:
        division = find_batch(drawn, num_pieces)
        assert division is not None
        work = PipelineWork(drawn, placement.slot_of, division.label_of, stages_per_slot)
        assert work.seconds(num_pieces) == pytest.approx(exact_s, rel=0.02)


@settings(max_examples=15)
@given(
    st.sampled_from([2, 3, 4]),
    st.integers(4, 14),
    st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 1e-2]),
    st.sampled_from([1e7, 1e9, 1e11]),
    st.booleans(),
)
def test_never_slower_than_one_stage_on_every_slot(
    num_slots: int, num_layers: int, latency_s: float, bytes_per_s: float, training: bool
) -> None:
    link = Link(latency_s, bytes_per_s)
    drawn = layers(num_slots, num_layers, training=training, link=link)
    found = place_micro_batched(drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_batches, "MAX_STAGES_PER_SLOT", 1)
        plain = place_micro_batched(drawn)
    assert divided_seconds(drawn, found) <= divided_seconds(drawn, plain) * (1 + 1e-9)


def test_taken_where_it_pays_and_only_there() -> None:
    assert laps(place_micro_batched(layers(4))) > 1
    assert laps(place_micro_batched(layers(4, link=Link(1e-2, 1e9)))) == 1
    assert laps(place_micro_batched(layers(4, 4))) == 1, "one layer for each slot"
    pinned = replace(layers(4), pins={"w0": 2})
    assert laps(place_micro_batched(pinned)) == 1
    ring = layers(4)
    links = {(3, 0): None}
    ring = replace(ring, topology=replace(ring.topology, links=links))
    assert laps(place_micro_batched(ring)) == 1, "no way back to the first slot"


def laps(placement: Placement) -> int:
    return 1 + max(layout.lap for layout in placement.layout_of.values())


@given(problems(), st.integers(2, 3))
def test_stages_respect_the_limits_of_their_slots_together(
    drawn: PlacementProblem, stages_per_slot: int
) -> None:
    graph, limits = unit_graph(drawn), memory_limits(drawn)
    found = interleave(graph, stages_per_slot)
    if found is None:
        return
    assert not any(excess_bytes(drawn, found.placement.slot_of, limits))
    chain_of = build_chain(graph, [None] * len(graph.units))
    plan = plan_interleaved(chain_of, limits, stages_per_slot)
    assert plan is not None
    ordered = [plan.stages[unit] for unit in chain_of.elements]
    assert ordered == sorted(ordered), "contiguous"
    assert set(ordered) == set(range(stages_per_slot * graph.num_slots)), "none is empty"


def test_stages_make_room_for_large_state() -> None:
    drawn = layers(2, 16)
    large = {"w0", "w1"}
    nodes = [
        replace(node, output_bytes=(10 if node.name in large else 1) * node.output_bytes)
        for node in drawn.dag
    ]
    dag = Dag(tuple(nodes))
    free = PlacementProblem(dag, drawn.topology, estimate_costs(dag, drawn.topology))
    found = interleave(unit_graph(free), 2)
    assert found is not None
    weight_bytes, value_bytes = 4 * 256**2, 4 * 64 * 256
    assert state_bytes(free, found.placement) == [26 * weight_bytes, 8 * weight_bytes]
    limit = 24 * weight_bytes + 3 * value_bytes
    slots = tuple(replace(slot, memory_bytes=limit) for slot in drawn.topology.slots)
    limited = replace(free, topology=replace(free.topology, slots=slots))
    found = interleave(unit_graph(limited), 2)
    assert found is not None
    assert max(state_bytes(limited, found.placement)) <= limit


def state_bytes(drawn: PlacementProblem, placement: Placement) -> list[int]:
    found = [0 for _ in drawn.topology.slots]
    for node in drawn.dag:
        if node.kind is NodeKind.STATE:
            found[placement.slot_of[node.name]] += node.output_bytes
    return found


def test_no_stages_without_work() -> None:
    assert interleave(unit_graph(layers(4, 7)), 2) is None
