"""The strategy `data`, and the batch that it divides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.dims import VIEWED, Along, OpDims, Strided
from fxdevice.divisible import can_divide
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.batch import even_shares, find_batch
from fxdevice.placers.batch_division import Batch, divide_batch
from fxdevice.placers.data import place_data, weighted_shares
from fxdevice.topology import Link, Slot, Topology

NONE: tuple[frozenset[int], ...] = (frozenset(),)


def chain(batch: int = 8, width: int = 16, num_layers: int = 3) -> list[DagNode]:
    """Returns a chain of products of `[batch, width]`."""
    size = 4 * batch * width
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=size, shape=(batch, width))]
    for layer in range(num_layers):
        read, weight = nodes[-1].name, f"w{layer}"
        nodes.append(
            DagNode(weight, NodeKind.STATE, output_bytes=4 * width**2, shape=(width, width))
        )
        nodes.append(
            DagNode(
                f"y{layer}",
                NodeKind.COMPUTE,
                (read, weight),
                size,
                2 * batch * width**2,
                2 * size,
                shape=(batch, width),
                dims=OpDims({read: (0, 1), weight: (1, 2)}, ((0, 2),), (frozenset({1}),)),
            )
        )
    return nodes


def mixing(read: DagNode, name: str, flops: int = 1) -> DagNode:
    """Returns an operation that mixes the first dimension, such as a softmax over the batch."""
    return replace(
        read,
        name=name,
        kind=NodeKind.COMPUTE,
        inputs=(read.name,),
        flops=flops,
        traffic_bytes=8,
        dims=OpDims({read.name: (None, 1)}, ((None, 1),), NONE),
        source="model.py:7 x = x.softmax(0)",
        module="head",
    )


def problem(
    nodes: list[DagNode], speeds: tuple[float, ...] = (1.0, 1.0), limit: int | None = None
) -> PlacementProblem:
    specs = [DeviceSpec(f"x{s}", {"float32": s * 1e9}, s * 1e9, launch_s=0.0) for s in speeds]
    slots = tuple(Slot(i, f"cuda:{i}", limit, spec) for i, spec in enumerate(specs))
    dag, topology = Dag(tuple(nodes)), Topology(slots, Link(1e-6, 1e10))
    return PlacementProblem(dag, topology, estimate_costs(dag, topology))


def test_every_product_is_divided_along_the_batch() -> None:
    placement = place_data(problem(chain()))
    assert set(placement.layout_of) == {"y0", "y1", "y2"}
    for layout in placement.layout_of.values():
        assert (layout.label, layout.shares, layout.slots) == (0, (4, 4), (0, 1))
    assert set(placement.slot_of.values()) == {0}
    assert "2 replicas" in placement.reason_of["y0"]


def test_shares_follow_the_speeds() -> None:
    placement = place_data(problem(chain(), speeds=(1.0, 3.0)))
    assert placement.layout_of["y0"].shares == (2, 6)


def test_a_batch_smaller_than_the_number_of_slots() -> None:
    placement = place_data(problem(chain(batch=3), speeds=(1.0,) * 8))
    assert placement.layout_of["y0"].shares == (1, 1, 1)
    assert len(set(placement.layout_of["y0"].slots)) == 3


@given(st.integers(1, 50), st.lists(st.floats(0.1, 10.0), min_size=1, max_size=8))
def test_weighted_shares(size: int, speeds: list[float]) -> None:
    shares = weighted_shares(size, speeds)
    assert sum(shares) == size
    for share, speed in zip(shares, speeds, strict=True):
        assert abs(share - size * speed / sum(speeds)) < 1


@given(st.integers(1, 50), st.integers(1, 9))
def test_even_shares(size: int, num_pieces: int) -> None:
    shares = even_shares(size, num_pieces)
    assert sum(shares) == size
    assert max(shares) - min(shares) <= 1
    assert len(shares) == min(size, num_pieces)


def test_what_mixes_the_batch_is_a_barrier_and_division_goes_on_behind_it() -> None:
    nodes = chain(num_layers=2)
    barrier = mixing(nodes[-1], "mixed")
    behind = replace(
        nodes[-1],
        name="behind",
        inputs=("mixed", "w0"),
        dims=OpDims({"mixed": (0, 1), "w0": (1, 2)}, ((0, 2),), (frozenset({1}),)),
    )
    division = divide_batch(problem([*nodes, barrier, behind]), Batch(0, 8), (4, 4))
    assert set(division.label_of) == {"y0", "y1", "behind"}
    assert division.barriers == ("mixed",)


def test_a_model_that_mixes_its_batch_is_refused_by_name() -> None:
    nodes = chain(num_layers=1)
    barrier = mixing(nodes[-1], "mixed", flops=10**9)
    with pytest.raises(PlacementError, match=r"only \d+% of the work can be") as caught:
        place_data(problem([*nodes, barrier]))
    assert "'mixed' in module 'head' (model.py:7 x = x.softmax(0))" in str(caught.value)


def test_no_batch() -> None:
    with pytest.raises(PlacementError, match="needs a batch"):
        place_data(problem(chain(batch=1, width=1)))


def test_the_second_dimension_can_be_the_batch() -> None:
    nodes = chain(batch=6, width=8)
    x = DagNode("x", NodeKind.INPUT, output_bytes=192, shape=(8, 6))
    turned = DagNode(
        "turned",
        NodeKind.COMPUTE,
        ("x",),
        192,
        shape=(6, 8),
        dims=OpDims({"x": (0, 1)}, ((1, 0),), NONE),
    )
    first = nodes[2]
    assert first.dims is not None
    first = replace(
        first,
        inputs=("turned", "w0"),
        dims=OpDims({"turned": (0, 1), "w0": (1, 2)}, ((0, 2),), (frozenset({1}),)),
    )
    softmax = mixing(first, "mixed")  # mixes what would be dimension 1 of the input
    softmax = replace(softmax, dims=OpDims({"y0": (0, None)}, ((0, None),), NONE))
    found = find_batch(problem([x, turned, nodes[1], first, softmax]), 2)
    assert found is not None
    assert found.batch == Batch(1, 6)


def merged(length: int = 3, batch: int = 8, width: int = 16) -> list[DagNode]:
    """Returns a product of rows `[length * batch, width]`, and a sum of all of its rows.

    It reads a batch that was turned to `[length, batch, width]` first, and is viewed so behind.
    """
    rows, turned = (length * batch, width), (length, batch, width)
    view = OpDims({}, ((0, None),), NONE, is_view=True)
    product = OpDims({"rows": (0, 1), "w": (1, 2)}, ((0, 2),), (frozenset({1}),))
    found: list[tuple[str, NodeKind, tuple[int, ...], OpDims | None]] = [
        ("x", NodeKind.INPUT, (batch, length, width), None),
        ("w", NodeKind.STATE, (width, width), None),
        ("turned", NodeKind.COMPUTE, turned, OpDims({"x": (0, 1, 2)}, ((1, 0, 2),), NONE)),
        ("rows", NodeKind.COMPUTE, rows, replace(view, inputs={"turned": (0, None, 1)})),
        ("y", NodeKind.COMPUTE, rows, product),
        ("sum", NodeKind.COMPUTE, (width,), OpDims({"y": (0, 1)}, ((1,),), (frozenset({0}),))),
        (
            "back",
            NodeKind.COMPUTE,
            turned,
            OpDims({"y": (0, 1)}, ((0, None, 1),), NONE, is_view=True),
        ),
    ]
    nodes = []
    for name, kind, shape, dims in found:
        inputs = () if dims is None else tuple(dims.inputs)
        flops = 0 if dims is None or dims.is_view else 10**6
        nodes.append(DagNode(name, kind, inputs, 1024, flops, shape=shape, dims=dims))
    return nodes


def test_a_batch_that_is_not_first_in_merged_rows() -> None:
    found = find_batch(problem(merged()), 2)
    assert found is not None
    assert not found.barriers
    expected: dict[str, Along] = {
        "turned": 0,
        "rows": Strided(VIEWED, 3),
        "y": Strided(0, 3),
        "sum": Strided(0, 3),
        "back": Strided(VIEWED, 3),
    }
    assert found.label_of == expected


def test_a_batch_is_better_than_a_dimension_whose_pieces_need_each_other() -> None:
    """Both divide all of the work; along the length, `z` needs all pieces of `y`."""
    x = DagNode("x", NodeKind.INPUT, output_bytes=4096, shape=(16, 8, 8))
    attention = OpDims({"q": (0, 1, 2), "x": (None, 1, 2)}, ((0, 1, 2),), NONE)
    nodes = [x]
    for name, dims in (
        ("q", OpDims({"x": (0, 1, 2)}, ((0, 1, 2),), NONE)),
        ("y", attention),
        ("z", OpDims({"y": (None, 1, 2), "q": (0, 1, 2)}, ((0, 1, 2),), NONE)),
    ):
        inputs = tuple(dims.inputs)
        nodes.append(
            replace(x, name=name, kind=NodeKind.COMPUTE, inputs=inputs, flops=10, dims=dims)
        )
    drawn = problem(nodes)
    along_length = divide_batch(drawn, Batch(0, 16), (8, 8))
    assert (along_length.seconds_share, along_length.gathered_bytes) == (1.0, 4096)
    found = find_batch(drawn, 2)
    assert found is not None
    assert (found.batch, found.gathered_bytes) == (Batch(1, 8), 0)


def test_merged_rows_that_runs_cannot_be_cut_in() -> None:
    division = divide_batch(problem(merged(batch=7)), Batch(0, 7), (4, 3))
    assert division.label_of["y"] == Strided(0, 3)
    division = divide_batch(problem(merged(length=0)), Batch(0, 8), (4, 4))
    assert division.barriers == ("rows",), "no rows at all"
    division = divide_batch(problem(merged()), Batch(0, 8), (4, 3))
    assert division.barriers == ("turned",), "8 elements in shares of 7"


def test_a_view_that_is_cut_in_one_run_has_a_plain_label_or_none() -> None:
    """Plans keep runs where there are two or more."""
    x = DagNode("x", NodeKind.INPUT, output_bytes=120, shape=(3, 10))
    dims = OpDims({"x": (None, None)}, ((None, None),), NONE, is_view=True)
    viewed = DagNode("viewed", NodeKind.COMPUTE, ("x",), 120, shape=(2, 15), dims=dims)
    division = divide_batch(problem([x, viewed]), Batch(0, 3), (3,))
    assert (dict(division.label_of), division.barriers) == ({}, ("viewed",))


def test_pinned_operations_stay_whole_and_the_rest_is_divided() -> None:
    drawn = problem(chain())
    pinned = replace(drawn, pins={"y1": 1, "w2": 1})
    placement = place_data(pinned)
    assert set(placement.layout_of) == {"y0", "y2"}
    assert (placement.slot_of["y1"], placement.slot_of["w2"]) == (1, 1)


def test_a_replica_that_does_not_fit() -> None:
    state_bytes = 3 * 4 * 16**2
    with pytest.raises(PlacementError, match=r"are missing. Raise max_memory of slot 0") as caught:
        place_data(problem(chain(), limit=state_bytes - 1))
    assert "whole model" in str(caught.value)


@given(st.integers(2, 24), st.integers(2, 6))
def test_every_layout_can_be(batch: int, num_slots: int) -> None:
    drawn = problem(chain(batch=batch), speeds=tuple(1.0 + i for i in range(num_slots)))
    for name, layout in place_data(drawn).layout_of.items():
        assert can_divide(drawn.dag[name], layout.label, drawn.dag, layout.shares)
        assert len(layout.slots) == len(layout.shares) == len(set(layout.slots))
