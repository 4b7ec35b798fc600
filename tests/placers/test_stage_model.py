import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.placement import PlacementProblem
from fxdevice.placers.chain import build_chain
from fxdevice.placers.memory import needed_memory
from fxdevice.placers.stage_model import StageModel
from fxdevice.placers.stage_prices import StagePrices
from fxdevice.placers.transfers import TransferLedger
from fxdevice.placers.units import unit_graph
from tests.placers import oracle
from tests.strategies import problems


def models(problem: PlacementProblem) -> StageModel:
    graph = unit_graph(problem)
    return StageModel(build_chain(graph, [unit.pin for unit in graph.units]))


def draw_cuts(data: st.DataObject, model: StageModel) -> tuple[int, ...]:
    num_items = len(model.chain.elements)
    count = model.chain.graph.num_slots - 1
    cut = st.integers(0, num_items)
    return (0, *sorted(data.draw(st.lists(cut, min_size=count, max_size=count))), num_items)


@given(problems(), st.data())
def test_stages_take_the_time_of_their_nodes(
    problem: PlacementProblem, data: st.DataObject
) -> None:
    model = models(problem)
    cuts = draw_cuts(data, model)
    slot_of = model.chain.graph.slot_of(model.chain.stages(cuts))
    for stage, expected_s in enumerate(oracle.loads_s(problem, slot_of)):
        assert model.cost(stage, cuts[stage], cuts[stage + 1]) == pytest.approx(expected_s)


@given(problems(), st.data())
def test_bytes_of_stages_are_a_lower_bound(problem: PlacementProblem, data: st.DataObject) -> None:
    model = models(problem)
    cuts = draw_cuts(data, model)
    slot_of = model.chain.graph.slot_of(model.chain.stages(cuts))
    for stage, memory in enumerate(needed_memory(problem, slot_of)):
        estimate = model.num_bytes(stage, cuts[stage], cuts[stage + 1])
        assert memory.total_bytes - memory.working_bytes <= estimate
        # A stage does not know that backward reads, and so keeps, a value elsewhere.
        made_here = sum(node.saved_bytes for node in problem.dag if slot_of.get(node.name) == stage)
        assert estimate <= memory.total_bytes + made_here - memory.saved_bytes


@given(problems(), st.data())
def test_prices_of_stages_add_up_to_all_transfers(
    problem: PlacementProblem, data: st.DataObject
) -> None:
    devices = {slot.device for slot in problem.topology.slots}
    model = models(problem)
    cuts = draw_cuts(data, model)
    if 1 < len(devices) < len(problem.topology.slots):
        return  # A stage does not know the device that a value comes from.
    prices = StagePrices(model.chain, cuts, len(cuts) - 1)
    found = sum(
        prices.into(stage, start, [stop])[0]
        for stage, (start, stop) in enumerate(itertools.pairwise(cuts))
    )
    assert found == TransferLedger(model.chain.graph, model.chain.stages(cuts)).total


@given(problems(), st.data())
def test_prices_of_several_ends_equal_those_of_each(
    problem: PlacementProblem, data: st.DataObject
) -> None:
    model = models(problem)
    num_items = len(model.chain.elements)
    start = data.draw(st.integers(0, num_items))
    stops = list(range(start, num_items + 1))
    num_stages = model.chain.graph.num_slots
    prices = StagePrices(model.chain, stops, num_stages)
    for stage in range(num_stages):
        each = [
            StagePrices(model.chain, {start, stop}, num_stages).into(stage, start, [stop])[0]
            for stop in stops
        ]
        assert prices.into(stage, start, stops) == each


@given(problems(), st.data())
def test_a_stage_is_impossible_just_above_its_limit(
    problem: PlacementProblem, data: st.DataObject
) -> None:
    model = models(problem)
    num_items = len(model.chain.elements)
    stages = range(model.num_stages)
    whole = [model.num_bytes(stage, 0, num_items) for stage in stages]
    model.limits = tuple(
        data.draw(st.sampled_from([None, num_bytes, num_bytes - 1, num_bytes // 2, 2 * num_bytes]))
        for num_bytes in whole
    )
    for stage, start in itertools.product(stages, range(num_items + 1)):
        for stop in range(start, num_items + 1):
            limit = model.limits[stage]
            is_above = limit is not None and model.num_bytes(stage, start, stop) > limit
            assert (model.cost(stage, start, stop) == math.inf) is is_above


@given(problems(has_pins=False))
def test_longer_stages_cost_no_less(problem: PlacementProblem) -> None:
    model = models(problem)
    num_items = len(model.chain.elements)
    model.limits = tuple(slot.memory_bytes for slot in problem.topology.slots)
    for stage in range(model.chain.graph.num_slots):
        for start in range(num_items):
            inner = model.cost(stage, start + 1, num_items)
            assert model.cost(stage, start, num_items) >= inner - 1e-12
