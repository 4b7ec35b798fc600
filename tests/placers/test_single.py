import pytest
from hypothesis import given

from fxdevice.costs import estimate_costs
from fxdevice.dag import NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.single import place_single
from fxdevice.topology import Slot, Topology
from tests.placers import oracle
from tests.placers.decoder import decoder
from tests.strategies import problems


def problem_of(limits: tuple[int | None, ...], pins: dict[str, int]) -> PlacementProblem:
    dag = decoder(2)
    slots = tuple(Slot(i, f"cuda:{i}", memory_bytes=limit) for i, limit in enumerate(limits))
    topology = Topology(slots)
    return PlacementProblem(dag, topology, estimate_costs(dag, topology), pins)


@given(problems(are_limited=False))
def test_all_is_on_the_first_slot_but_for_pins(problem: PlacementProblem) -> None:
    placement = place_single(problem)
    for names in oracle.classes(problem.dag):
        pinned = [problem.pins[name] for name in names if name in problem.pins]
        (slot,) = {placement.slot_of[name] for name in names}
        if pinned or not problem.dag[names[0]].is_recomputable:
            assert slot == (pinned[0] if pinned else 0)
        else:
            # It may be where the only node that reads it is pinned.
            assert slot in {0, *(placement.slot_of[n] for n in problem.dag.users[names[0]])}
    assert placement.slot_of.keys() == placement.reason_of.keys()


def test_takes_the_first_slot_with_room() -> None:
    placement = place_single(problem_of((1_000_000, 9_000_000, None), {}))
    assert set(placement.slot_of.values()) == {1}
    assert placement.reason_of["norm"] == "all on slot 1"


def test_pinned_nodes_stay() -> None:
    placement = place_single(problem_of((None, None), {"norm": 1}))
    elsewhere = [name for name, slot in placement.slot_of.items() if slot == 1]
    assert elsewhere == ["norm"]
    assert placement.reason_of["norm"] == "pinned to slot 1"


def test_message_says_what_is_missing() -> None:
    problem = problem_of((1_000_000, 4_000_000), {})
    with pytest.raises(PlacementError, match="even on slot 1") as caught:
        place_single(problem)
    text = str(caught.value)
    assert "slot 1 (cuda:1) allows 3.8 MiB and needs 4.1 MiB" in text
    enough = int(text.split("raise max_memory of slot 1 to ")[1].split(" bytes")[0])
    slot_of = place_single(problem_of((1_000_000, enough), {})).slot_of
    assert set(slot_of.values()) == {1}
    with pytest.raises(PlacementError):
        place_single(problem_of((1_000_000, enough - 1), {}))


def test_inputs_are_not_placed() -> None:
    problem = problem_of((None,), {})
    slot_of = place_single(problem).slot_of
    assert {n.name for n in problem.dag if n.kind is NodeKind.INPUT} == {"ids"}
    assert "ids" not in slot_of
