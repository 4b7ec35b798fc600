"""Slots of nodes, and copies that do not touch the original."""

from __future__ import annotations

import dataclasses

import pytest

from fxdevice.dump import dump
from fxdevice.placed_graph import NodeInfo, node_info, set_node_info
from tests.small_graphs import two_stages


def test_copy_is_equal_and_independent() -> None:
    placed = two_stages()
    text = dump(placed)
    copy = placed.copy()
    assert dump(copy) == text
    assert copy.root is placed.root
    for node in copy.graph.nodes:
        if node.op != "output":
            set_node_info(node, NodeInfo(1))
    copy.graph.erase_node(copy.graph.output_node())
    assert dump(placed) == text


def test_slot_of_a_node_without_one() -> None:
    placed = two_stages()
    node = next(iter(placed.graph.nodes))
    assert placed.slot_of(node).index == 2
    node.meta.pop("fxdevice")
    assert node_info(node) is None
    with pytest.raises(KeyError, match="'x_1' has no slot"):
        placed.slot_of(node)


def test_node_info_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NodeInfo(1).slot = 2  # type: ignore[misc]
