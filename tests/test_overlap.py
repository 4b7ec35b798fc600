"""Pieces of several slots that are to work at the same time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.join_partitions import join_partitions
from fxdevice.overlap import Overlap, overlapping_pieces, pieces_makespan_s

STEP_S, HAND_OVER_S = 0.5, 0.25


@dataclass(frozen=True)
class Case:
    """Nodes by number, what each needs, its lane and its seconds."""

    needs: Mapping[int, Sequence[int]]
    lanes: Mapping[int, tuple[int, ...]]
    seconds: Mapping[int, float]
    twins: Mapping[int, int] = field(default_factory=dict)

    @property
    def overlap(self) -> Overlap[int]:
        return Overlap(
            self.seconds.__getitem__, STEP_S, HAND_OVER_S, twin_of=lambda node: self.twins.get(node)
        )

    def pieces(self) -> list[list[int]]:
        return overlapping_pieces(self.needs, self.lanes.__getitem__, self.overlap)

    def makespan_s(self, pieces: Sequence[Sequence[int]]) -> float:
        return pieces_makespan_s(pieces, self.needs, self.lanes.__getitem__, self.overlap)


@st.composite
def cases(
    draw: st.DrawFn, max_nodes: int = 14, max_rounds: int = 1, *, with_twins: bool = False
) -> Case:
    needs: dict[int, list[int]] = {}
    lanes: dict[int, tuple[int, ...]] = {}
    seconds: dict[int, float] = {}
    for node in range(draw(st.integers(1, max_nodes))):
        earlier = st.lists(st.integers(0, node - 1), max_size=3, unique=True)
        needs[node] = draw(earlier) if node else []
        lanes[node] = (draw(st.integers(0, 2)), draw(st.integers(0, max_rounds - 1)))
        seconds[node] = float(draw(st.sampled_from([0, 0, 1, 2, 8])))
    names = st.sampled_from([None, None, *range(max_nodes // 3)]) if with_twins else st.none()
    twins = {node: name for node in needs if (name := draw(names)) is not None}
    return Case(needs, lanes, seconds, twins)


@given(st.one_of(cases(), cases(with_twins=True)))
def test_pieces_are_of_one_lane_and_executable(case: Case) -> None:
    pieces = case.pieces()
    assert sorted(itertools.chain(*pieces)) == sorted(case.needs)
    done: set[int] = set()
    for piece in pieces:
        assert len({case.lanes[node] for node in piece}) == 1
        inside = set(piece)
        for node in piece:
            assert set(case.needs[node]) <= done | inside
        done |= inside


@given(cases(max_rounds=3))
def test_rounds_stay_apart_or_there_are_none(case: Case) -> None:
    pieces = case.pieces()
    assert all(len({case.lanes[node] for node in piece}) == 1 for piece in pieces)
    assert not pieces or sorted(itertools.chain(*pieces)) == sorted(case.needs)


@given(cases(), st.data())
def test_nodes_stay_with_their_leader(case: Case, data: st.DataObject) -> None:
    # An element of a tuple reads nothing but the tuple, on its slot.
    tied = {n: needs[0] for n, needs in case.needs.items() if len(needs) == 1}
    tied = {n: m for n, m in tied.items() if m not in tied and case.lanes[n] == case.lanes[m]}
    chosen = {n: m for n, m in tied.items() if data.draw(st.booleans())}
    overlap = Overlap(case.seconds.__getitem__, STEP_S, HAND_OVER_S, chosen.get)
    pieces = overlapping_pieces(case.needs, case.lanes.__getitem__, overlap)
    assert sorted(itertools.chain(*pieces)) == sorted(case.needs)
    for piece in pieces:
        assert all(chosen[node] in piece for node in piece if node in chosen)


@given(st.one_of(cases(), cases(with_twins=True)))
def test_makespan_is_that_of_an_independent_simulation(case: Case) -> None:
    pieces = case.pieces()
    piece_of = {node: index for index, piece in enumerate(pieces) for node in piece}
    finish_s: list[float] = []
    for index, piece in enumerate(pieces):
        slot = case.lanes[piece[0]][0]
        same = [finish_s[i] for i in range(index) if case.lanes[pieces[i][0]][0] == slot]
        arrives = [
            finish_s[piece_of[need]] + HAND_OVER_S * (case.lanes[need][0] != slot)
            for node in piece
            for need in case.needs[node]
            if piece_of[need] != index
        ]
        work_s = STEP_S + sum(case.seconds[node] for node in piece)
        finish_s.append(max([0.0, *same, *arrives]) + work_s)
    assert case.makespan_s(pieces) == pytest.approx(max(finish_s))


def largest(case: Case) -> list[list[int]]:
    pieces = [[node] for node in case.needs]
    return join_partitions(pieces, case.needs, case.lanes.__getitem__)


def test_two_parts_of_a_batch_run_at_the_same_time() -> None:
    # 0 cuts, 1 and 2 compute on slots 0 and 1, 3 puts the results together on slot 0.
    needs = {0: [], 1: [0], 2: [0], 3: [1, 2]}
    case = Case(needs, {0: (0,), 1: (0,), 2: (1,), 3: (0,)}, {0: 1.0, 1: 100.0, 2: 100.0, 3: 1.0})
    assert case.pieces() == [[0], [1], [2], [3]]
    assert case.makespan_s(case.pieces()) < 110
    # The largest pieces make the second part wait for the first one.
    assert largest(case) == [[0, 1], [2], [3]]
    assert case.makespan_s(largest(case)) > 200


def test_what_nobody_waits_for_stays_in_one_piece() -> None:
    case = Case({n: [n - 1] if n else [] for n in range(6)}, dict.fromkeys(range(6), (0,)),
                dict.fromkeys(range(6), 1.0))  # fmt: skip
    assert case.pieces() == [[0, 1, 2, 3, 4, 5]]


def test_what_does_not_make_the_end_later_is_joined() -> None:
    # What slot 1 makes of 1 is the end, after what slot 2 does for very long.
    needs: dict[int, list[int]] = {0: [], 1: [], 2: [0], 3: [0], 4: [1, 2, 3]}
    lanes = {0: (0,), 1: (1,), 2: (1,), 3: (2,), 4: (1,)}
    case = Case(needs, lanes, {0: 1.0, 1: 1.0, 2: 1.0, 3: 50.0, 4: 1.0})
    assert case.pieces() == [[0], [1, 2], [3], [4]]


def test_views_are_taken_where_they_are_read() -> None:
    # 1 is a view of 0 that only 3 reads, after slot 1 has been waited for.
    case = Case(
        {0: [], 1: [0], 2: [0], 3: [1, 2]},
        {0: (0,), 1: (0,), 2: (1,), 3: (0,)},
        {0: 1.0, 1: 0.0, 2: 5.0, 3: 1.0},
    )
    assert case.pieces() == [[0], [2], [1, 3]]


@given(cases(max_nodes=40))
def test_makespan_has_the_work_of_every_slot(case: Case) -> None:
    work_s = [0.0] * 3
    for node, (slot, *_) in case.lanes.items():
        work_s[slot] += case.seconds[node]
    assert case.makespan_s(case.pieces()) >= max(work_s)


@st.composite
def replicas(draw: st.DrawFn) -> Case:
    """Two replicas of random work, then sums of what they made, on one slot or the other."""
    work = draw(cases(max_nodes=8))
    num = len(work.needs)
    shared = draw(st.booleans())  # both read what slot 0 makes first
    needs: dict[int, list[int]] = {0: []}
    lanes, seconds, twins = {0: (0,)}, {0: 1.0}, {}
    for slot in range(2):
        for node, before in work.needs.items():
            new = 1 + slot * num + node
            needs[new] = [1 + slot * num + n for n in before] or ([0] if shared else [])
            lanes[new], seconds[new], twins[new] = (slot,), work.seconds[node], node
    for node in range(num):
        if draw(st.booleans()):
            new = len(needs)
            needs[new] = [1 + node, 1 + num + node]
            lanes[new], seconds[new] = (draw(st.integers(0, 1)),), 0.5
    return Case(needs, lanes, seconds, twins)


@given(replicas())
def test_replicas_are_cut_alike_where_that_is_as_fast(case: Case) -> None:
    def cut(case: Case) -> tuple[list[list[int]], float]:
        # A step takes nothing, so that a join gains nothing.
        overlap = replace(case.overlap, step_s=0.0)
        pieces = overlapping_pieces(case.needs, case.lanes.__getitem__, overlap)
        return pieces, pieces_makespan_s(pieces, case.needs, case.lanes.__getitem__, overlap)

    (pieces, found_s), (free, free_s) = cut(case), cut(replace(case, twins={}))
    assert found_s <= free_s * 1.002
    names: list[list[list[int]]] = [[], []]
    for piece in pieces:
        if found := sorted(case.twins[node] for node in piece if node in case.twins):
            names[case.lanes[piece[0]][0]].append(found)
    assert sorted(names[0]) == sorted(names[1]) or pieces == free


def test_sums_by_turns_leave_replicas_equal() -> None:
    """Both replicas read the loss of slot 0; one gradient is summed on slot 0, one on slot 1."""
    needs: dict[int, list[int]] = {0: []}
    lanes, seconds, twins = {0: (0,)}, {0: 0.0}, {}
    for slot in range(2):
        base = 1 + 4 * slot
        for node, before in enumerate(([0], [base], [base + 1], [base])):
            new = base + node
            needs[new], lanes[new], seconds[new], twins[new] = before, (slot,), 100.0, node
    needs |= {9: [3, 7], 10: [4, 8]}
    lanes |= {9: (0,), 10: (1,)}
    seconds |= {9: 10.0, 10: 10.0}
    case = Case(needs, lanes, seconds, twins)
    assert case.pieces() == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [10], [9]]


def test_twins_that_follow_each_other_are_not_cut_alike() -> None:
    case = Case({0: [], 1: [0], 2: [1]}, {0: (0,), 1: (1,), 2: (0,)}, dict.fromkeys(range(3), 1.0),
                dict.fromkeys(range(3), 0))  # fmt: skip
    assert case.pieces() == [[0], [1], [2]]
