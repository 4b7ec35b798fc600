import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.placement import PlacementProblem
from fxdevice.placers.transfers import TransferLedger, price_seconds, price_tables, total_price
from fxdevice.placers.units import unit_graph
from fxdevice.topology import Link
from tests.placers import oracle
from tests.planner_cases import stays
from tests.strategies import problems


@given(problems(has_pins=False), st.data())
def test_total_stays_right_while_units_move(problem: PlacementProblem, data: st.DataObject) -> None:
    graph = unit_graph(problem)
    slots = st.integers(0, graph.num_slots - 1)
    ledger = TransferLedger(graph, [data.draw(slots) for _ in graph.units])
    units = range(len(graph.units))
    for _ in range(4):
        ledger.move([unit for unit in units if data.draw(st.booleans())], data.draw(slots))
    assert ledger.total == TransferLedger(graph, ledger.slots).total
    assert ledger.total == total_price(graph, ledger.slots)


@given(problems(has_pins=False), st.data())
def test_total_is_the_time_of_all_transfers(problem: PlacementProblem, data: st.DataObject) -> None:
    graph = unit_graph(problem)
    slots = st.integers(0, graph.num_slots - 1)
    ledger = TransferLedger(graph, [data.draw(slots) for _ in graph.units])
    slot_of = graph.slot_of(ledger.slots)
    found = oracle.transfers(problem.dag, slot_of)
    expected_s = oracle.transfer_s(problem.dag, problem.topology, slot_of)
    # Within one device a transfer has a thousandth of the price of one between devices, and so has
    # a copy that stays.
    devices = [slot.device for slot in problem.topology.slots]
    for name, source, destination in found:
        if devices[source] == devices[destination] or stays(name, problem.dag):
            node = problem.dag[name]
            expected_s += Link().transfer_s(node.output_bytes) / 1_000
            if node.gradient_bytes:
                expected_s += Link().transfer_s(node.gradient_bytes) / 1_000
    assert price_seconds(ledger.total) == pytest.approx(expected_s, rel=1e-6, abs=1e-10)


@given(problems(has_pins=False), st.data())
def test_a_unit_that_may_not_gain_does_not(problem: PlacementProblem, data: st.DataObject) -> None:
    graph = unit_graph(problem)
    slots = st.integers(0, graph.num_slots - 1)
    ledger = TransferLedger(graph, [data.draw(slots) for _ in graph.units])
    before = ledger.total
    for unit in range(len(graph.units)):
        if not ledger.may_gain(unit):
            home = ledger.slots[unit]
            for slot in range(graph.num_slots):
                ledger.move([unit], slot)
                assert ledger.total >= before
            ledger.move([unit], home)


@given(problems())
def test_prices_are_zero_within_a_slot_only(problem: PlacementProblem) -> None:
    for table in price_tables(unit_graph(problem)):
        for source, row in enumerate(table):
            for destination, price in enumerate(row):
                assert (price == 0) == (source == destination)
