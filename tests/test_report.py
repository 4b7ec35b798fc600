"""The report says what the devices did: its text is golden, its counts are theirs."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

import fxdevice
from fxdevice import Report, sim
from tests.two_slots import HALVES, TwoLayers

PAIR = [0, 1]


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def test_before_any_call() -> None:
    report = fxdevice.report(fxdevice.compile(nn.Linear(2, 3), PAIR, inner="eager"))
    assert report.graphs == ()
    assert report.transfers() == ()
    assert report.unplaced == ("weight", "bias")
    assert_expected_inline(
        str(report),
        """\
Linear on 2 slots: fxsim:0, fxsim:1
strategy auto, inner compiler eager
nothing captured yet: call the model once
not placed, because nothing has used it yet: weight, bias""",
    )


def test_inference() -> None:
    model = fxdevice.compile(
        TwoLayers(), PAIR, inner="eager", device_map=HALVES, strategy="pipeline"
    )
    with torch.no_grad():
        model(torch.ones(2, 4))
    report = fxdevice.report(model)
    line = TwoLayers.forward.__code__.co_firstlineno + 1
    source = f"two_slots.py:{line} hidden: Tensor = self.second(torch.relu(self.first(x)))"
    assert str(report).startswith(report.summary())
    assert_expected_inline(
        str(report).replace(source, "FORWARD"),
        """\
TwoLayers on 2 slots: fxsim:0, fxsim:1
strategy pipeline, inner compiler eager
graph 0, inference:
  slot 0 fxsim:0: 3 operations in 1 partitions, predicted 4.0 us, state 100 B
  slot 1 fxsim:1: 2 operations in 1 partitions, predicted 2.0 us, state 72 B
  transfers: 2, 72 bytes
    arg2_1 cpu -> fxsim:0, 32 bytes  # args[0]
    relu fxsim:0 -> fxsim:1, 40 bytes  # FORWARD

slots: 0 fxsim:0 | 1 fxsim:1 | 2 cpu (caller)
slot 0 | arg0_1: f32[5, 4] = placeholder  | first.weight; pinned to slot 0
slot 0 | arg1_1: f32[5] = placeholder  | first.bias; pinned to slot 0
slot 2 | arg2_1: f32[2, 4] = placeholder  | args[0]; the caller's
slot 0 | arg2_1_to0: f32[2, 4] = transfer(arg2_1)  | transfer
slot 1 | arg3_1: f32[3, 5] = placeholder  | second.weight; pinned to slot 1
slot 1 | arg4_1: f32[3] = placeholder  | second.bias; pinned to slot 1
slot 0 | t: f32[4, 5] = t(arg0_1)  | 0.0 us, 0 FLOPs; pinned to slot 0  # FORWARD
slot 0 | addmm: f32[2, 5] = addmm(arg1_1, arg2_1_to0, t)  | 2.0 us, 80 FLOPs; pinned to slot 0  # FORWARD
slot 0 | relu: f32[2, 5] = relu(addmm)  | 2.0 us, 10 FLOPs; stage 1 of 2  # FORWARD
slot 1 | relu_to1: f32[2, 5] = transfer(relu)  | transfer  # FORWARD
slot 1 | t_1: f32[5, 3] = t(arg3_1)  | 0.0 us, 0 FLOPs; pinned to slot 1  # FORWARD
slot 1 | addmm_1: f32[2, 3] = addmm(arg4_1, relu_to1, t_1)  | 2.0 us, 60 FLOPs; pinned to slot 1  # FORWARD
output | (addmm_1 @ slot 1)
transfers: 2, 72 bytes
""",  # noqa: E501
    )


def counted(report: Report, *labels: str) -> Counter[tuple[str, str]]:
    """Returns the bytes of the transfers between two different devices, by pair."""
    found: Counter[tuple[str, str]] = Counter()
    for graph in report.graphs:
        if graph.label in labels:
            for transfer in graph.transfers:
                if transfer.source != transfer.destination and not transfer.is_resident:
                    found[transfer.source, transfer.destination] += transfer.num_bytes
    return found


def seen(recording: sim.Recording) -> Counter[tuple[str, str]]:
    return Counter({pair: count.num_bytes for pair, count in recording.stats.copies.items()})


class Residual(nn.Module):
    """Values that two later slots read: each is transferred once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.third = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.second(a).relu() + a
        out: Tensor = self.third(b * a + x)
        return out


def test_transfers_are_those_that_the_devices_count() -> None:
    model = Residual()
    pins = {"first": 0, "second": 1, "third": 2}
    fxdevice.compile(model, [0, 1, 2], inner="eager", device_map=pins)
    x = torch.randn(3, 4)
    output_bytes = 3 * 2 * 4
    model(x).sum().backward()
    report = fxdevice.report(model)
    model.zero_grad(set_to_none=False)
    with sim.record() as forward:
        out = model(x)
    expected = counted(report, "forward")
    # The result comes back to the caller's device after the graph.
    expected["fxsim:2", "cpu"] += output_bytes
    assert seen(forward) == expected
    assert forward.stats.num_copies == len(report.graphs[0].transfers) + 1
    with sim.record() as backward:
        out.backward(torch.ones_like(out))
    expected = counted(report, "backward")
    expected["cpu", "fxsim:2"] += output_bytes
    assert seen(backward) == expected
    # Across the slots: `a` twice, `b` once, and x to the first and the last.
    assert sum(count for pair, count in counted(report, "forward").items()) <= 5 * 3 * 4 * 4


def test_operations_and_bytes_of_each_slot() -> None:
    model = fxdevice.compile(TwoLayers(), PAIR, inner="eager", device_map=HALVES)
    with torch.no_grad():
        model(torch.randn(3, 4))
    (graph,) = fxdevice.report(model).graphs
    assert graph.label == "inference"
    assert [slot.device for slot in graph.slots] == ["fxsim:0", "fxsim:1"]
    assert [slot.state_bytes for slot in graph.slots] == [4 * (20 + 5), 4 * (15 + 3)]
    assert [slot.num_partitions for slot in graph.slots] == [1, 1]
    assert all(slot.predicted_s > 0 for slot in graph.slots)
    report = fxdevice.report(model)
    assert report.num_graph_operations == sum(slot.num_operations for slot in graph.slots)
    assert report.num_eager_operations == 0
    assert report.unplaced == ()


def test_state_that_stays_with_the_caller_is_transferred_once() -> None:
    module = TwoLayers()
    function = fxdevice.compile(lambda x: module(x), [1], inner="eager")
    with torch.no_grad():
        function(torch.randn(3, 4))
    transfers = fxdevice.report(function).transfers()
    kept = [transfer for transfer in transfers if transfer.is_resident]
    assert sorted(t.num_bytes for t in kept) == [12, 20, 60, 80]
    assert {(t.source, t.destination) for t in kept} == {("cpu", "fxsim:1")}
    assert "kept between calls" in str(fxdevice.report(function))


def test_new_shapes_are_more_graphs() -> None:
    model = fxdevice.compile(TwoLayers(), PAIR, inner="eager", strategy="pipeline", dynamic=False)
    counts = []
    with torch.no_grad():
        for size in (2, 3, 2):
            model(torch.randn(size, 4))
            counts.append(len(fxdevice.report(model).graphs))
    assert counts == [1, 2, 2]
    assert [graph.index for graph in fxdevice.report(model).graphs] == [0, 1]


class Breaks(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Linear(5, 5)
        self.unused = nn.Linear(2, 2)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def outside(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.third(hidden) * hidden
        return out

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.outside(self.first(x))
        out: Tensor = self.second(hidden)
        return out


def test_breaks_and_what_ran_outside() -> None:
    plain = Breaks()
    model = fxdevice.compile(copy.deepcopy(plain), PAIR, inner="eager", strategy="pipeline")
    x = torch.randn(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
    report = fxdevice.report(model)
    assert len(report.graphs) == 2
    (found,) = report.breaks
    line = Breaks.forward.__code__.co_firstlineno + 1
    assert found.index == 0
    assert not found.is_whole_graph
    assert found.reason.startswith(f"test_report.py:{line}: ")
    assert "disable" in found.reason
    assert report.uncaptured == ("third",)
    assert report.unplaced == ("unused.weight", "unused.bias")
    # linear and mul.
    assert report.num_eager_operations == 2
    text = report.summary()
    share = report.num_eager_operations / (report.num_graph_operations + 2)
    assert f"outside of graphs: 2 operations so far ({share:.1%} of " in text
    assert f"graph 0 ends at a graph break: {found.reason}" in text
    assert "run outside of graphs: third" in text
    assert "not placed, because nothing has used it yet: unused.weight, unused.bias" in text


def test_long_lists_are_cut() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    text = str(fxdevice.report(fxdevice.compile(model, PAIR, inner="eager", strategy="pipeline")))
    assert "3.weight, 3.bias and 4 more" in text


def test_report_of_a_submodule_is_that_of_the_model() -> None:
    model = fxdevice.compile(TwoLayers(), PAIR, inner="eager", strategy="pipeline")
    assert fxdevice.report(model.first).name == "TwoLayers"


def test_the_same_report_gives_the_same_text() -> None:
    texts = []
    for _ in range(2):
        torch._dynamo.reset()
        model = fxdevice.compile(TwoLayers(), PAIR, inner="eager", device_map=HALVES)
        model(torch.ones(2, 4)).sum().backward()
        texts.append(str(fxdevice.report(model)))
    assert texts[0] == texts[1]


def test_divided_inputs_have_rows() -> None:
    """Slices of the caller's tensors are taken where the caller has them, on no slot."""
    model = fxdevice.compile(TwoLayers(), PAIR, inner="eager", strategy="data")
    model(torch.randn(6, 4)).sum().backward()
    text = str(fxdevice.report(model))
    assert "slice" in text
    assert "batch" in text
