import pytest

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
