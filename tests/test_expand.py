"""Expansions, run with NumPy: whatever the layouts are, the values are those of the whole graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import VIEWED, Along, Layout, OpDims, Strided, cut_of
from fxdevice.divisible import can_divide, lowest_terms, piece_size
from fxdevice.expand import expand
from fxdevice.expanded import expanded_problem
from fxdevice.pieces import MIN_SCATTERED_BYTES, Expansion, Instance, Role
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.topology import Slot, Topology

NUM_SLOTS = 3
SIZES = (2, 4, 6, 12)
NONE: tuple[frozenset[int], ...] = (frozenset(),)


Array: TypeAlias = npt.NDArray[np.float64]

RUN: Mapping[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "product": lambda a, b: a @ b,
    "transposed": lambda a: a.T,
    "sum": lambda a: a.sum(0, keepdims=True),
    "mean": lambda a: a.mean(0, keepdims=True),
    "reversed": lambda a: a[::-1],
    "viewed": lambda a, shape: a.reshape(shape),
}


def operation(kind: str, reads: list[DagNode], name: str) -> DagNode | None:
    """Makes a node of a kind, or None when the shapes do not fit."""
    first, *rest = reads
    assert first.shape is not None
    rows, columns = first.shape
    names = tuple(dict.fromkeys(node.name for node in reads))
    shape: tuple[int, int] = (rows, columns)
    if kind == "add":
        if rest[0].shape != first.shape:
            return None
        dims = OpDims({node.name: (0, 1) for node in reads}, ((0, 1),), NONE)
    elif kind == "product":
        assert rest[0].shape is not None
        if rest[0].shape[0] != columns or rest[0].name == first.name:
            return None
        shape = (rows, rest[0].shape[1])
        labels = {first.name: (0, 1), rest[0].name: (1, 2)}
        dims = OpDims(labels, ((0, 2),), (frozenset({1}),))
    elif kind == "transposed":
        shape = (columns, rows)
        dims = OpDims({first.name: (0, 1)}, ((1, 0),), NONE)
    elif kind == "sum":
        shape = (1, columns)
        dims = OpDims({first.name: (0, 1)}, ((None, 1),), (frozenset({0}),))
    elif kind == "mean":
        shape = (1, columns)
        dims = OpDims({first.name: (0, 1)}, ((None, 1),), NONE, (frozenset({0}),))
    elif kind == "viewed":
        shape = (columns, rows)
        dims = OpDims({first.name: (None, None)}, ((None, None),), NONE, is_view=True)
    else:
        dims = OpDims({first.name: (None, 1)}, ((None, 1),), NONE)
    return DagNode(
        name, NodeKind.COMPUTE, names, 8 * shape[0] * shape[1], 1, 8, shape=shape, dims=dims
    )


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Dag, dict[str, tuple[str, tuple[str, ...]]]]:
    """Draws a graph of matrices; returns it with the kind and operands of every operation."""
    nodes: list[DagNode] = []
    for index in range(draw(st.integers(1, 3))):
        shape = (draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES)))
        place = draw(st.sampled_from([NodeKind.INPUT, NodeKind.STATE]))
        nodes.append(DagNode(f"x{index}", place, output_bytes=8 * shape[0] * shape[1], shape=shape))
    # Sums of large values are added up in parts.
    scale = draw(st.sampled_from([1, MIN_SCATTERED_BYTES]))
    calls = {}
    for index in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(sorted(RUN)))
        reads = [draw(st.sampled_from(nodes)) for _ in range(1 + (kind in ("add", "product")))]
        made = operation(kind, reads, f"n{index}")
        if made is not None:
            nodes.append(replace(made, output_bytes=scale * made.output_bytes))
            calls[made.name] = (kind, tuple(node.name for node in reads))
    return Dag(tuple(nodes)), calls


LABELS: tuple[Along, ...] = (
    *range(3),
    *(Strided(label, num_runs) for label in range(3) for num_runs in (2, 3)),
    *(Strided(VIEWED, num_runs) for num_runs in range(1, 30)),
)


@st.composite
def placements(draw: st.DrawFn, dag: Dag) -> Placement:
    """Draws slots, and layouts for some of the nodes that can be divided or copied."""
    slots = st.integers(0, NUM_SLOTS - 1)
    placed = [node for node in dag if node.kind is not NodeKind.INPUT]
    slot_of = {node.name: draw(slots) for node in placed}
    layout_of = {}
    for node in placed:
        if node.dims is None or not draw(st.booleans()):
            continue
        if draw(st.integers(0, 3)) == 0:
            chosen = draw(st.lists(slots, min_size=1, unique=True))
            layout_of[node.name] = Layout.copied(tuple(chosen))
            continue
        shares = draw(st.sampled_from([(1, 1), (2, 1), (1, 1, 2), (3, 3)]))
        labels = [label for label in LABELS if can_divide(node, label, dag, shares)]
        if labels:
            where = tuple(draw(slots) for _ in shares)
            layout_of[node.name] = Layout(draw(st.sampled_from(labels)), shares, where)
    return Placement(slot_of, dict.fromkeys(slot_of, ""), layout_of)


def run(
    expansion: Expansion,
    calls: Mapping[str, tuple[str, tuple[str, ...]]],
    values: Mapping[str, Array],
) -> dict[str, Array]:
    """Runs every instance in order."""
    found: dict[str, Array] = {}
    for one in expansion.instances:
        found[one.name] = _run_one(expansion, one, calls, values, found)
    return found


def _run_one(
    expansion: Expansion,
    one: Instance,
    calls: Mapping[str, tuple[str, tuple[str, ...]]],
    values: Mapping[str, Array],
    found: Mapping[str, Array],
) -> Array:
    reads = [found[name] for name in one.inputs]
    node = expansion.dag[one.origin]
    if node.kind is not NodeKind.COMPUTE and one.role is Role.WHOLE:
        return values[one.origin]
    if one.role in (Role.WHOLE, Role.COPY, Role.PIECE):
        kind, operands = calls[one.origin]
        by_name = dict(zip(node.inputs, reads, strict=True))
        shape = [_shape_of(one, node)] if kind == "viewed" else []
        made: Array = RUN[kind](*(by_name[name] for name in operands), *shape)
        return made
    if one.role is Role.SLICE:
        return np.concatenate([_piece(run, one) for run in _runs(reads[0], one)], one.cut.dim)
    if one.role is Role.CONCAT:
        runs = zip(*(_runs(part, one) for part in reads), strict=True)
        return np.concatenate([part for parts in runs for part in parts], one.cut.dim)
    weights = [1.0] * len(reads)
    if one.role is Role.MEAN:
        weights = [share / sum(one.shares) for share in one.shares]
    total: Array = np.sum([w * part for w, part in zip(weights, reads, strict=True)], axis=0)
    return total


def _runs(value: Array, one: Instance) -> list[Array]:
    return np.split(value, one.cut.num_runs, one.cut.dim)


def _piece(run: Array, one: Instance) -> Array:
    ends = np.cumsum(
        [piece_size(run.shape[one.cut.dim], one.shares, i) for i in range(len(one.shares))]
    )
    return np.split(run, ends[:-1], one.cut.dim)[one.index]


def _shape_of(one: Instance, node: DagNode) -> tuple[int, ...]:
    assert node.shape is not None
    assert node.dims is not None
    shape = list(node.shape)
    if one.role is Role.PIECE:
        cut = cut_of(node.dims.outputs[0], one.label, node.shape)
        assert cut is not None
        shape[cut.dim] = piece_size(shape[cut.dim], one.shares, one.index)
    return tuple(shape)


def test_parts_of_a_large_sum_cross_once_each() -> None:
    shape = (6, 5)
    num_bytes = MIN_SCATTERED_BYTES
    read = DagNode("x", NodeKind.INPUT, output_bytes=num_bytes, shape=shape)
    dims = OpDims({"x": (None, 0)}, ((None, None),), (frozenset({0}),))
    made = DagNode("y", NodeKind.COMPUTE, ("x",), num_bytes, 1, 1, shape=shape, dims=dims)
    placement = Placement({"y": 0}, {}, {"y": Layout(0, (3, 1, 1), (0, 1, 2))})
    found = expand(Dag((read, made)), placement, ["y"])
    parts = [one for one in found.instances if one.role is Role.PART]
    assert [one.slot for one in parts] == [0, 1, 2]
    whole = found.instances[-1]
    assert whole.name == found.whole_of["y"]
    assert (whole.role, whole.inputs) == (Role.CONCAT, ("y_part0", "y_part1", "y_part2"))
    # A dimension of varying size has no parts of known sizes; the other one has no third.
    varying = replace(made, varying_dims=(0,))
    found = expand(Dag((read, varying)), placement, ["y"])
    assert [one.role for one in found.instances][-1] is Role.SUM


@given(st.data())
def test_pieces_make_up_the_values_of_the_whole_graph(data: st.DataObject) -> None:
    dag, calls = data.draw(graphs())
    placement = data.draw(placements(dag))
    random = np.random.default_rng(0)
    values = {n.name: random.random(n.shape) for n in dag if n.kind is not NodeKind.COMPUTE}
    whole = dict(values)
    for name, (kind, operands) in calls.items():
        shape = [dag[name].shape] if kind == "viewed" else []
        whole[name] = RUN[kind](*(whole[operand] for operand in operands), *shape)

    expansion = expand(dag, placement, [node.name for node in dag])
    found = run(expansion, calls, values)

    for name, value in whole.items():
        np.testing.assert_allclose(found[expansion.whole_of[name]], value, rtol=1e-12)


@given(st.data())
def test_instances_are_where_the_placement_says(data: st.DataObject) -> None:
    dag, _ = data.draw(graphs())
    placement = data.draw(placements(dag))
    expansion = expand(dag, placement, [node.name for node in dag if not dag.users[node.name]])
    seen: set[str] = set()
    for one in expansion.instances:
        assert one.name not in seen
        assert seen.issuperset(one.inputs), "an instance comes before one that it reads"
        seen.add(one.name)
        if one.role in (Role.PIECE, Role.COPY):
            assert one.slot == placement.layout_of[one.origin].slots[one.index]
        elif one.role is Role.WHOLE and dag[one.origin].kind is not NodeKind.INPUT:
            assert one.slot == placement.slot_of[one.origin]
    roles = (Role.PIECE, Role.COPY)
    assert {one.origin for one in expansion.instances if one.role in roles} == set(
        placement.layout_of
    )


@given(st.data())
def test_no_slot_asks_another_for_what_it_has_whole(data: st.DataObject) -> None:
    dag, _ = data.draw(graphs())
    expansion = expand(dag, placement := data.draw(placements(dag)))
    by_name = {one.name: one for one in expansion.instances}
    wholes = {
        (one.origin, one.slot): one.name
        for one in expansion.instances
        if one.role not in (Role.PIECE, Role.SLICE, Role.PART)
    }
    for one in expansion.instances:
        for source in (by_name[name] for name in one.inputs):
            layout = placement.layout_of.get(source.origin)
            if layout is None or source.role in (Role.PIECE, Role.SLICE, Role.PART):
                continue
            own = wholes.get((source.origin, one.slot), source.name)
            assert source.name == own or not layout.copies
            assert source.slot == one.slot or not layout.gathers


@given(st.data())
def test_expanded_problem_has_all_the_work(data: st.DataObject) -> None:
    dag, _ = data.draw(graphs())
    placement = data.draw(placements(dag))
    topology = Topology(tuple(Slot(index, f"cuda:{index}") for index in range(NUM_SLOTS)))
    problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
    expansion = expand(dag, placement, [node.name for node in dag])
    expanded, slot_of = expanded_problem(problem, expansion)
    assert [node.name for node in expanded.dag] == [one.name for one in expansion.instances]
    for one in expansion.instances:
        node = expanded.dag[one.name]
        if one.role is Role.SLICE:
            assert node.has_work == (one.cut.num_runs > 1)  # a view, or a copy
        if node.kind is not NodeKind.INPUT:
            assert slot_of[one.name] == one.slot
    for name, layout in placement.layout_of.items():
        if layout.copies:
            assert expanded.dag[expansion.whole_of[name]].flops == dag[name].flops
            continue
        flops = [expanded.dag[f"{name}_piece{i}"].flops for i in range(len(layout.shares))]
        assert sum(flops) >= dag[name].flops


def chain(length: int) -> Dag:
    dims = OpDims({}, ((0,),), NONE)
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=8, shape=(8,))]
    for index in range(length):
        read = nodes[-1].name
        dims = OpDims({read: (0,)}, ((0,),), NONE)
        nodes.append(
            DagNode(f"n{index}", NodeKind.COMPUTE, (read,), 8, 8, 8, shape=(8,), dims=dims)
        )
    return Dag(tuple(nodes))


def test_micro_batches_follow_each_other_in_rounds() -> None:
    dag = chain(2)
    layouts = {f"n{i}": Layout(0, (1, 1, 1, 1), (i,) * 4) for i in range(2)}
    placement = Placement({"n0": 0, "n1": 1}, {"n0": "", "n1": ""}, layouts)
    expansion = expand(dag, placement, ["n1"])
    pieces = [(one.round, one.slot, one.index) for one in expansion.instances if one.label == 0]
    work = [p for p, one in zip(pieces, expansion.instances, strict=True) if one.role is Role.PIECE]
    # round:    0        1        1        2        2        3        3        4
    expected = [(0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 2), (2, 1, 1), (3, 0, 3), (3, 1, 2)]
    assert work == [*expected, (4, 1, 3)]


def test_pieces_on_slots_of_their_own_need_no_rounds() -> None:
    dag = chain(3)
    layouts = {f"n{i}": Layout(0, (1, 1), (0, 1)) for i in range(3)}
    slots = {f"n{i}": 0 for i in range(3)}
    expansion = expand(dag, Placement(slots, dict.fromkeys(slots, ""), layouts), ["n2"])
    assert {one.round for one in expansion.instances} == {0}
    roles = [one.role for one in expansion.instances]
    assert roles.count(Role.SLICE) == 2  # the input, once
    assert roles.count(Role.CONCAT) == 1  # the result, once


def test_uneven_pieces_must_be_whole_numbers() -> None:
    dag = chain(1)
    assert can_divide(dag["n0"], 0, dag, (1, 3))
    assert can_divide(dag["n0"], 0, dag, (3, 5))
    assert not can_divide(dag["n0"], 0, dag, (1, 2))
    assert not can_divide(dag["n0"], 7, dag, (1, 1)), "no dimension has this label"


@pytest.mark.parametrize(("shares", "lowest"), [((4, 2), (2, 1)), ((3, 3, 3), (1, 1, 1))])
def test_lowest_terms(shares: tuple[int, ...], lowest: tuple[int, ...]) -> None:
    assert lowest_terms(shares) == lowest


def test_what_is_read_without_effect_is_not_made_whole() -> None:
    dag = chain(2)
    first = dag["n0"]
    # n1 reads n0 as well, say for a random state that it does not use: it is not in its dims.
    dims = OpDims({"x": (0,)}, ((0,),), NONE)
    reader = DagNode("n1", NodeKind.COMPUTE, ("x", "n0"), 8, 8, 8, shape=(8,), dims=dims)
    dag = Dag((dag["x"], first, reader))
    layouts = {name: Layout(0, (1, 1), (0, 1)) for name in ("n0", "n1")}
    slots = dict.fromkeys(layouts, 0)
    expansion = expand(dag, Placement(slots, dict.fromkeys(slots, ""), layouts), ["n1"])
    reads = [one.inputs for one in expansion.instances if one.origin == "n1" and one.inputs]
    assert reads[:2] == [("x_slice0_0", "n0_piece0"), ("x_slice0_1", "n0_piece1")]


def test_the_whole_is_the_result_and_its_pieces_are_not() -> None:
    dag = chain(1)
    dag = Dag((dag["x"], replace(dag["n0"], is_output=True, gradient_of="x", cache_length=4)))
    topology = Topology(tuple(Slot(index, f"cuda:{index}") for index in range(2)))
    problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
    placement = Placement({"n0": 1}, {"n0": ""}, {"n0": Layout(0, (1, 1), (0, 1))})
    expanded, _ = expanded_problem(problem, expand(dag, placement, ["n0"]))
    results = [n.name for n in expanded.dag if n.is_output or n.gradient_of or n.cache_length]
    assert results == ["n0_concat"]
