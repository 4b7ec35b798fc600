from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fxdevice.dag import Dag
from fxdevice.divisible import can_divide, undivided_bytes
from fxdevice.placers.node_kinds import node_kinds
from tests.placers.feature_graphs import feed_forward
from tests.placers.test_tensor import random_problem
from tests.test_expand import graphs


@given(st.data())
def test_nodes_of_one_kind_are_divided_alike(data: st.DataObject) -> None:
    dag, _ = data.draw(graphs())
    problem = random_problem(dag, 2)
    by_kind = sorted(zip(node_kinds(problem), dag, strict=True), key=lambda pair: pair[0])
    for _, members in itertools.groupby(by_kind, key=lambda pair: pair[0]):
        first, *others = [node for _, node in members]
        for node in others:
            assert problem.costs.seconds_of[node.name] == problem.costs.seconds_of[first.name]
            for label, shares in itertools.product(range(4), [(1, 1), (3, 1)]):
                assert can_divide(node, label, dag, shares) == can_divide(first, label, dag, shares)
                whole_bytes = undivided_bytes(first, label, dag)
                assert undivided_bytes(node, label, dag) == whole_bytes


def test_layers_repeat_their_kinds() -> None:
    builder = feed_forward()
    layer = builder.problem().dag
    copies = [
        node.changed(
            name=f"{node.name}_{number}",
            inputs=tuple(f"{name}_{number}" for name in node.inputs),
            dims=None,
        )
        for number in range(3)
        for node in layer
    ]
    kinds = node_kinds(random_problem(Dag(tuple(copies)), 2))
    assert all(count % 3 == 0 for count in Counter(kinds).values())
