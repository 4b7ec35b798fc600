"""Micro-batches of a pipeline, and replicas of pipelines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fxdevice.dag import NodeKind
from fxdevice.dims import OpDims
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers import micro_batches
from fxdevice.placers.batch import even_shares, find_batch, find_batches
from fxdevice.placers.batch_division import divide_batch
from fxdevice.placers.data_pipeline import place_data_pipeline
from fxdevice.placers.divided import divided_seconds
from fxdevice.placers.micro_batches import (
    best_micro_batches,
    place_micro_batched,
    with_micro_batches,
)
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.pipeline_time import PipelineWork
from fxdevice.topology import Link
from tests.placers.test_data import NONE, chain, problem


def large(num_slots: int = 2, num_layers: int = 8) -> PlacementProblem:
    return problem(chain(batch=64, width=256, num_layers=num_layers), speeds=(1.0,) * num_slots)


@pytest.mark.parametrize("num_slots", [2, 4])
def test_micro_batches_keep_the_stages_busy(
    num_slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batches, "MAX_STAGES_PER_SLOT", 1)
    drawn = large(num_slots)
    stages = place_pipeline(drawn)
    placed = best_micro_batches(drawn, stages)
    assert placed.slot_of == stages.slot_of
    assert placed.layout_of
    for name, layout in placed.layout_of.items():
        assert set(layout.slots) == {stages.slot_of[name]}
    whole_s, divided_s = divided_seconds(drawn, stages), divided_seconds(drawn, placed)
    num_pieces = len(next(iter(placed.layout_of.values())).shares)
    # (m + s - 1) / m of the work of a stage, against s of them.
    ideal_s = whole_s * (num_pieces + num_slots - 1) / (num_pieces * num_slots)
    assert divided_s == pytest.approx(ideal_s, rel=0.1)


@pytest.mark.parametrize("num_pieces", [2, 4, 8, 16])
def test_the_estimate_is_what_the_simulation_says(num_pieces: int) -> None:
    drawn = large()
    free = replace(drawn, topology=replace(drawn.topology, default_link=Link(0.0, 1e15)))
    stages = place_pipeline(free)
    division = find_batch(free, num_pieces)
    assert division is not None
    estimate_s = PipelineWork(free, stages.slot_of, division.label_of).seconds(num_pieces)
    simulated_s = divided_seconds(free, with_micro_batches(stages, division))
    # The simulation also joins the pieces of the result.
    assert estimate_s == pytest.approx(simulated_s, rel=0.01)


def test_batches_of_several_counts_are_those_of_each() -> None:
    nodes = chain(batch=48, width=16, num_layers=2)
    last = nodes[-1]
    # Rows in eight groups of six: eight pieces can cut the groups, sixteen and three cannot.
    grouped = replace(
        last,
        name="grouped",
        inputs=(last.name,),
        shape=(8, 6, 16),
        dims=OpDims({last.name: (0, 1)}, ((0, None, 1),), NONE),
    )
    drawn = problem([*nodes, grouped])
    found = find_batches(drawn, (2, 3, 8, 16, 32))
    assert found.keys() == {2, 3, 8, 16, 32}
    for count, division in found.items():
        # Whatever was found before.
        assert find_batch(drawn, count) == division == find_batch(problem([*nodes, grouped]), count)
        assert division.shares == even_shares(48, count)
        each = divide_batch(drawn, division.batch, division.shares)
        assert division.label_of == each.label_of
        assert ("grouped" in division.label_of) == (count in (2, 8))


def test_small_work_is_not_worth_many_launches() -> None:
    drawn = large()
    slots = tuple(
        replace(slot, spec=replace(slot.spec, launch_s=1.0)) for slot in drawn.topology.slots
    )
    dear = replace(drawn, topology=replace(drawn.topology, slots=slots))
    assert not best_micro_batches(dear, place_pipeline(drawn)).layout_of


def test_slots_that_take_turns_gain_nothing() -> None:
    drawn = large()
    slots = tuple(replace(slot, queue=0) for slot in drawn.topology.slots)
    shared = replace(drawn, topology=replace(drawn.topology, slots=slots))
    assert not place_micro_batched(shared).layout_of


def test_replicas_of_pipelines() -> None:
    drawn = large(num_slots=4)
    placed = place_data_pipeline(drawn)
    state = {placed.slot_of[node.name] for node in drawn.dag if node.kind is NodeKind.STATE}
    assert state == {0, 1}, "the state of the first replica"
    for name, layout in placed.layout_of.items():
        stage = placed.slot_of[name]
        half = len(layout.slots) // 2
        assert layout.slots == (stage,) * half + (stage + 2,) * half
    assert divided_seconds(drawn, placed) < divided_seconds(drawn, place_pipeline(drawn)) / 2


def test_replicas_of_pipelines_need_four_slots() -> None:
    for num_slots in (1, 2, 3, 5):
        with pytest.raises(PlacementError, match=f"found {num_slots} slots"):
            place_data_pipeline(large(num_slots))


def test_state_pinned_outside_of_the_first_replica_stays_there() -> None:
    drawn = replace(large(num_slots=4), pins={"w0": 3})
    placed = place_data_pipeline(drawn)
    readers = [
        layout for name, layout in placed.layout_of.items() if "w0" in drawn.dag[name].inputs
    ]
    assert placed.slot_of["w0"] == 3
    assert placed.reason_of["w0"] == "pinned to slot 3"
    assert readers
    assert all({*layout.slots} == {1, 3} for layout in readers), "its stage, in both replicas"
