import dataclasses

import pytest

from fxdevice.costs import CostTable
from fxdevice.dag import Dag
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.topology import Topology


def test_problem_has_no_pins_unless_given() -> None:
    problem = PlacementProblem(Dag(()), Topology(()), CostTable({}))
    assert not problem.pins
    assert problem.resident_bytes == ()
    with pytest.raises(TypeError, match="does not support item assignment"):
        problem.pins["a"] = 0  # type: ignore[index]


def test_placement_cannot_be_changed() -> None:
    placement = Placement({"a": 0}, {"a": "pinned to slot 0"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        placement.slot_of = {}  # type: ignore[misc]
