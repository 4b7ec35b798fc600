"""Whether the slots that exchange values are connected."""

from __future__ import annotations

from fxdevice.errors import PlacementError
from fxdevice.placed_graph import PlacedGraph
from fxdevice.topology import Topology
from fxdevice.transfer_op import is_transfer, transfer_source

__all__ = ["check_links"]


def check_links(placed: PlacedGraph, topology: Topology) -> None:
    """Refuses transfers between slots that have no link.

    Args:
        placed: A graph with its transfers.
        topology: The slots that compute.

    Raises:
        PlacementError: There is one.
    """
    for node in placed.graph.nodes:
        if not is_transfer(node):
            continue
        source, end = placed.slot_of(transfer_source(node)), placed.slot_of(node)
        if source.computes and end.computes and topology.link(source.index, end.index) is None:
            raise PlacementError(
                f"{transfer_source(node).name!r} is needed on slot {end.index} ({end.device}), and "
                f"there is no link to there from slot {source.index} ({source.device}): a plan "
                "says so, or a calibration that found copies damaged both directly and through "
                "the host. Leave one of the two devices out, or give strategy='single'"
            )
