"""Copies that arrive damaged."""

from __future__ import annotations

import pytest
import torch

import fxdevice.sim as sim
from fxdevice.errors import DeviceError


def test_only_the_named_direction_loses_what_is_copied() -> None:
    value = torch.arange(1.0, 7.0, device="fxsim:0").reshape(2, 3)
    with sim.corrupted_copies(("fxsim:0", "fxsim:1")):
        arrived = value.to("fxsim:1")
        strided = torch.full((3, 2), 5.0, device="fxsim:1").t().copy_(value)
        whole = [value.cpu(), value.clone(), value.to("fxsim:2"), value.to(2).to(1), value.cpu()]
        back = torch.ones(3, device=1).to(0)
    assert arrived.device == torch.device("fxsim:1")
    assert not arrived.any()
    assert not strided.any()
    assert all(torch.equal(each.cpu(), value.cpu()) for each in whole)
    assert back.all()
    assert torch.equal(value.to("fxsim:1").cpu(), value.cpu())


def test_blocks_nest_and_end_with_an_error() -> None:
    ones = torch.ones(2, device=0)

    def arrives() -> bool:
        return bool(ones.to(1).all())

    with sim.corrupted_copies((0, 1)):
        with sim.corrupted_copies((0, 1), (0, 1), (2, 3)):
            assert not arrives()
        assert not arrives()  # still in the outer block
    with pytest.raises(KeyError), sim.corrupted_copies((0, 1)):
        raise KeyError
    assert arrives()


def test_damaged_copies_are_counted_as_copies() -> None:
    ones = torch.ones(2, device=0)
    with sim.corrupted_copies((0, 1)), sim.record() as recording:
        ones.to(1)
    assert recording.stats.copies["fxsim:0", "fxsim:1"] == sim.CopyCount(1, 8)


@pytest.mark.parametrize("pair", [(0, 0), (0, 99), ("cpu", 1)])
def test_pairs_that_cannot_be_faulty(pair: tuple[int | str, int | str]) -> None:
    with pytest.raises(DeviceError), sim.corrupted_copies(pair):
        pass
