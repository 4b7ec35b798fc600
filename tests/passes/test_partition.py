"""Partitions cover the graph, run in order, and cannot be joined any further."""

from __future__ import annotations

from hypothesis import given, settings

from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.passes.partition import dependencies, partition
from tests.graph_strategies import Case, cases


def joinable_pairs(groups: list[tuple[int, set[str]]], edges: set[tuple[str, str]]) -> int:
    """Counts the pairs of one slot that could be joined, by trying each."""
    home = {name: index for index, (_, names) in enumerate(groups) for name in names}
    count = 0
    for first in range(len(groups)):
        for second in range(first + 1, len(groups)):
            if groups[first][0] == groups[second][0]:
                joined = {name: first if at == second else at for name, at in home.items()}
                count += is_acyclic({(joined[a], joined[b]) for a, b in edges})
    return count


def is_acyclic(edges: set[tuple[int, int]]) -> bool:
    edges = {(a, b) for a, b in edges if a != b}
    nodes = {end for edge in edges for end in edge}
    while nodes:
        free = {node for node in nodes if all(b != node for _, b in edges)}
        if not free:
            return False
        nodes -= free
        edges = {(a, b) for a, b in edges if a not in free}
    return True


@settings(max_examples=60)
@given(cases())
def test_partitions_are_maximal_and_run_in_order(case: Case) -> None:
    placed = insert_transfers(case.placed)
    needs = dependencies(placed)
    edges = {(source.name, node.name) for node, before in needs.items() for source in before}
    must = {node.name for node in needs}
    partitions = partition(placed).partitions
    groups = [(p.slot, set(p.nodes) & must) for p in partitions]
    assert sorted(name for _, names in groups for name in names) == sorted(must)
    home = {name: index for index, (_, names) in enumerate(groups) for name in names}
    assert all(home[source] <= home[node] for source, node in edges)
    slot_of = {node.name: placed.slot_of(node).index for node in needs}
    assert all(slot_of[name] == slot for slot, names in groups for name in names)
    assert joinable_pairs(groups, edges) == 0
