"""Connections with known speed and known faults."""

from __future__ import annotations

import logging

import pytest
import torch

from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.links import delivers, measure_link
from fxdevice.calibrate.meter import Meter, Transfer, through_host
from fxdevice.errors import DeviceError
from fxdevice.topology import Link
from fxdevice.transfer_op import transfer_tensor
from tests.calibrate.instruments import QUICK, TimedTransfer, sim_pair


class LosesLastByte:
    """Corrupts what is larger than a page, without an error."""

    def __call__(self, value: torch.Tensor, destination: torch.device) -> torch.Tensor:
        arrived = transfer_tensor(value, destination)
        if arrived.numel() > 4_096:
            arrived[-1] += 1
        return arrived


class LeavesUnwritten:
    """Returns memory that still holds what came there before."""

    def __init__(self) -> None:
        self.memory: dict[int, torch.Tensor] = {}

    def __call__(self, value: torch.Tensor, destination: torch.device) -> torch.Tensor:
        before = self.memory.get(value.numel())
        self.memory[value.numel()] = transfer_tensor(value, destination)
        return self.memory[value.numel()] if before is None else before


@pytest.mark.parametrize("send", [transfer_tensor, through_host])
def test_working_transfers_deliver(send: Transfer) -> None:
    source, destination = sim_pair(0, 1)
    assert delivers(source, destination, send, QUICK)
    assert send(torch.ones(3, device=source), destination).device == destination


@pytest.mark.parametrize("send", [LosesLastByte(), LeavesUnwritten()])
def test_broken_transfers_do_not_deliver(send: Transfer) -> None:
    assert not delivers(*sim_pair(0, 1), send, QUICK)


def test_probes_of_the_standard_effort_find_faults_of_any_size() -> None:
    sizes = Effort().probe_bytes
    assert any(size < 16 for size in sizes)
    assert any(size > 2**22 for size in sizes)
    assert any(size % 2 for size in sizes)
    assert Effort().num_probes >= 2  # else LeavesUnwritten passes


@pytest.mark.parametrize("spike_every", [0, 3, 5])
@pytest.mark.parametrize(
    "link",
    [Link(1e-5, 2e10), Link(0.0, 1e6), Link(2e-3, 5e8)],
    ids=["fast", "slow", "late"],
)
def test_a_link_of_known_speed_is_found(link: Link, spike_every: int) -> None:
    transfer = TimedTransfer(transfer_tensor, link.latency_s, link.bytes_per_s, spike_every)
    meter = Meter(direct=transfer, clock=transfer.clock)
    found = measure_link(*sim_pair(0, 1), meter, QUICK)
    assert found is not None
    assert found.latency_s == pytest.approx(link.latency_s, rel=1e-6, abs=1e-9)
    assert found.bytes_per_s == pytest.approx(link.bytes_per_s, rel=1e-6)
    assert (found.kind, found.channel) == ("direct", None)


def test_a_size_that_is_always_disturbed_hardly_counts() -> None:
    timed = TimedTransfer(transfer_tensor, 1e-5, 1e9)

    def send(value: torch.Tensor, destination: torch.device) -> torch.Tensor:
        timed.now_s += 2e-2 if value.nbytes == 4_096 else 0.0  # another process's time slice
        return timed(value, destination)

    found = measure_link(*sim_pair(0, 1), Meter(direct=send, clock=timed.clock), QUICK)
    assert found is not None
    for num_bytes in (64, 65_536):
        true_s = Link(1e-5, 1e9).transfer_s(num_bytes)
        assert true_s / 1.5 < found.transfer_s(num_bytes) < true_s * 1.5


def test_a_corrupting_pair_goes_through_the_host(caplog: pytest.LogCaptureFixture) -> None:
    staged = TimedTransfer(through_host, 1e-4, 1e8)
    meter = Meter(direct=LosesLastByte(), staged=staged, clock=staged.clock)
    with caplog.at_level(logging.WARNING, "fxdevice"):
        found = measure_link(*sim_pair(3, 5), meter, QUICK)
    assert found is not None
    assert (found.kind, found.channel) == ("host", "host")
    assert found.latency_s == pytest.approx(1e-4)
    assert found.bytes_per_s == pytest.approx(1e8)
    (message,) = caplog.messages
    assert "from fxsim:3 to fxsim:5" in message


def test_a_pair_that_corrupts_both_ways_is_not_connected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    meter = Meter(direct=LosesLastByte(), staged=LosesLastByte())
    with caplog.at_level(logging.WARNING, "fxdevice"):
        assert measure_link(*sim_pair(0, 1), meter, QUICK) is None
    assert "not connected" in caplog.messages[-1]


def test_a_device_that_loses_what_the_host_sends_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype))
    with pytest.raises(DeviceError, match="fxsim:0 does not give back the 1 bytes"):
        delivers(*sim_pair(0, 1), transfer_tensor, QUICK)
