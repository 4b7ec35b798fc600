import math

import pytest

from fxdevice.device_spec import DeviceSpec
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


def two_ways(*queues: int | None, hand_over_s: float = 0.5) -> Topology:
    """CPU slots that are twice as fast alone, and a device of its own behind them."""
    alone = DeviceSpec("all", {"float32": 2e9}, 2e9)
    share = DeviceSpec("half", {"float32": 1e9}, 1e9)
    slots = [Slot(i, "cpu", 10, share, q, alone) for i, q in enumerate(queues)]
    slots.append(Slot(len(slots), "cuda:0", queue=1))
    return Topology(tuple(slots), hand_over_s=hand_over_s)


def test_slots_in_turns_have_all_of_their_device_one_at_a_time() -> None:
    topology = two_ways(None, None)
    turns = topology.in_turns()
    assert turns is not None
    first, second, other = turns.slots
    assert {slot.spec.name for slot in (first, second)} == {"all"}
    assert first.queue_name == second.queue_name != other.queue_name
    assert other == topology.slots[2]
    assert [slot.memory_bytes for slot in turns.slots] == [10, 10, None]
    assert turns.in_turns() is None
    assert Topology(TOPOLOGY.slots).in_turns() is None


def test_only_slots_of_one_device_with_queues_of_their_own_hand_over() -> None:
    topology = two_ways(None, None)
    turns = topology.in_turns()
    assert turns is not None
    pairs = [(a, b) for a in range(3) for b in range(3)]
    assert [pair for pair in pairs if topology.hands_over(*pair)] == [(0, 1), (1, 0)]
    assert not any(turns.hands_over(*pair) for pair in pairs)
    assert not two_ways(None, None, hand_over_s=0.0).hands_over(0, 1)
    assert topology.transfer_s(10**9, 0, 1) == 0  # the memory is shared


def test_the_time_of_a_hand_over_can_be() -> None:
    with pytest.raises(DeviceSpecError, match=r"hand_over_s must be .* zero or more"):
        two_ways(None, hand_over_s=-1.0)
