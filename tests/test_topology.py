import math

import pytest

from fxdevice.errors import DeviceSpecError
from fxdevice.topology import Link, Slot, Topology

SLOW = Link(latency_s=1.0, bytes_per_s=10.0)
TOPOLOGY = Topology(
    (Slot(0, "cuda:0"), Slot(1, "cuda:1"), Slot(2, "cuda:1")),
    default_link=Link(latency_s=0.5, bytes_per_s=100.0),
    links={(0, 1): SLOW},
)


@pytest.mark.parametrize(
    ("source", "destination", "seconds"),
    [
        (0, 1, 11.0),  # the link of this pair
        (1, 0, 1.5),  # links have a direction
        (0, 2, 1.5),
        (1, 2, 0.0),  # one device
        (1, 1, 0.0),
    ],
)
def test_transfer_time(source: int, destination: int, seconds: float) -> None:
    assert TOPOLOGY.transfer_s(100, source, destination) == seconds


@pytest.mark.parametrize("indices", [(1,), (0, 0), (1, 0)])
def test_slots_are_numbered_in_order(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="numbered 0"):
        Topology(tuple(Slot(index, "cpu") for index in indices))


@pytest.mark.parametrize("pair", [(0, 3), (-1, 0)])
def test_links_name_slots_that_there_are(pair: tuple[int, int]) -> None:
    with pytest.raises(DeviceSpecError, match="slots 0 to 2; found"):
        Topology(TOPOLOGY.slots, links={pair: SLOW})


def test_a_pair_without_a_link_is_not_connected() -> None:
    topology = Topology(TOPOLOGY.slots, None, {(0, 1): SLOW})
    assert topology.link(1, 0) is None
    assert topology.transfer_s(0, 1, 0) == math.inf
    assert topology.transfer_s(100, 1, 2) == 0.0


@pytest.mark.parametrize("figure", [-1.0, math.nan, math.inf, True, "1"])
def test_links_have_possible_figures(figure: float) -> None:
    assert Link(latency_s=0).transfer_s(0) == 0
    with pytest.raises(DeviceSpecError, match=r"latency_s must be .* zero or more"):
        Link(latency_s=figure)
    with pytest.raises(DeviceSpecError, match=r"bytes_per_s must be .* more than zero"):
        Link(bytes_per_s=figure)
    with pytest.raises(DeviceSpecError, match=r"bytes_per_s must be .* more than zero"):
        Link(bytes_per_s=0)
