"""The pipeline checks results, names the culprit, and tells the observer."""

from __future__ import annotations

import pytest

from fxdevice.dump import dump
from fxdevice.errors import VerificationError
from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.pipeline import Pass, Pipeline
from fxdevice.placed_graph import PlacedGraph
from fxdevice.verify import check_device_literals, check_devices, verify
from tests.small_graphs import two_stages

INSERT = Pass("insert_transfers", insert_transfers, ensures=(check_devices,))
ASSIGN = Pass("assign_devices", assign_devices, requires=(check_devices,), ensures=(verify,))


def test_observer_sees_every_pass_with_input_and_result() -> None:
    seen: list[tuple[str, str, str]] = []
    pipeline = Pipeline(
        (INSERT, ASSIGN),
        lambda step, before, after: seen.append((step.name, dump(before), dump(after))),
    )
    placed = two_stages()
    first = dump(placed)
    result = pipeline(placed)
    assert [name for name, _, _ in seen] == ["insert_transfers", "assign_devices"]
    assert seen[0][1] == first == dump(placed)
    assert seen[0][2] == seen[1][1]
    assert seen[1][2] == dump(result) != first


def test_ensures_is_checked_on_the_result() -> None:
    pipeline = Pipeline((Pass("do_nothing", lambda placed: placed, ensures=(check_devices,)),))
    with pytest.raises(VerificationError) as caught:
        pipeline(two_stages())
    message = str(caught.value)
    assert "pass 'do_nothing': check_devices does not hold after it: node 'mm'" in message
    assert "> slot 0 | mm: f32[3, 3] = mm(x_1, w_1)" in message
    assert isinstance(caught.value.__cause__, VerificationError)


def test_requires_is_checked_on_the_input() -> None:
    with pytest.raises(VerificationError, match="check_devices does not hold before it"):
        Pipeline((ASSIGN,))(two_stages())


def test_a_pass_that_fails_is_named_once() -> None:
    def fail(placed: PlacedGraph) -> PlacedGraph:
        check_device_literals(placed)
        return placed

    with pytest.raises(VerificationError) as caught:
        Pipeline((INSERT, Pass("fail", fail)))(two_stages())
    assert str(caught.value).count("pass '") == 1
    assert "pass 'fail': failed: node 'arange'" in str(caught.value)


def test_a_broken_graph_is_found_by_lint() -> None:
    def break_order(placed: PlacedGraph) -> PlacedGraph:
        broken = placed.copy()
        nodes = list(broken.graph.nodes)
        nodes[0].append(nodes[-2])
        return broken

    with pytest.raises(VerificationError, match="pass 'break_order': lint does not hold after it"):
        Pipeline((Pass("break_order", break_order),))(two_stages())
