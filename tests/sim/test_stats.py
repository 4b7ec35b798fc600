import threading

import pytest
import torch

import fxdevice.sim as sim
from fxdevice.sim import CopyCount


def test_operations_are_counted_on_their_device() -> None:
    a = torch.ones(2, 2, device="fxsim:1")
    b = torch.ones(2, 2, device="fxsim:2")
    with sim.record() as recorded:
        (a @ a).relu()
        b.view(4)[1:].sin()
        torch.empty(3, device="fxsim:3")
    operations = recorded.stats.operations
    assert operations["fxsim:1"] == 2
    assert operations["fxsim:2"] == 1
    assert operations["fxsim:3"] == 0
    assert recorded.stats.num_operations == 3
    assert recorded.stats.num_copies == 0


def test_copies_are_counted_by_pair_with_their_bytes() -> None:
    x = torch.arange(6.0)
    with sim.record() as recorded:
        here = x.to("fxsim:0")
        there = here.to("fxsim:1")
        here[:2].to("fxsim:1")
        there.cpu()
        there.to("fxsim:1")
        there.clone()
    assert recorded.stats.copies == {
        ("cpu", "fxsim:0"): CopyCount(1, 24),
        ("fxsim:0", "fxsim:1"): CopyCount(2, 32),
        ("fxsim:1", "cpu"): CopyCount(1, 24),
    }
    assert recorded.stats.num_copies == 4
    assert recorded.stats.num_copied_bytes == 80
    assert recorded.stats.operations["fxsim:1"] == 1  # the clone


def test_indices_brought_from_the_cpu_are_copies() -> None:
    x = torch.zeros(4, device="fxsim:0")
    index = torch.tensor([0, 2])
    with sim.record() as reading:
        x[index]
    with sim.record() as writing:
        x.index_put_((index,), torch.ones(2, device="fxsim:0"))
    assert reading.stats.copies == {("cpu", "fxsim:0"): CopyCount(1, 16)}
    assert writing.stats.copies == {("cpu", "fxsim:0"): CopyCount(1, 16)}


def test_values_cpu_scalars_and_empty_tensors_are_no_copies() -> None:
    x = torch.ones(3, device="fxsim:0")
    with sim.record() as recorded:
        x[1].item()
        x + torch.tensor(1.0)
        torch.empty(0).to("fxsim:0")
    assert recorded.stats.copies == {}
    assert recorded.stats.num_operations == 1


def test_recordings_nest_and_end() -> None:
    x = torch.ones(3, device="fxsim:0")
    with sim.record() as outer:
        x.sin()
        with sim.record() as inner:
            x.cos()
        assert outer.stats.num_operations == 2
    x.exp()
    assert inner.stats.num_operations == 1
    assert outer.stats.num_operations == 2


def test_reset() -> None:
    torch.ones(3).to("fxsim:0").sin()
    sim.reset_stats()
    assert sim.stats().num_operations == 0
    assert sim.stats().copies == {}


def test_stats_cannot_be_changed() -> None:
    stats = sim.stats()
    with pytest.raises(TypeError):
        stats.operations["fxsim:0"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        stats.copies = {}  # type: ignore[misc]


def test_threads_lose_no_count() -> None:
    tensors = [torch.ones(2, device=f"fxsim:{index % 2}") for index in range(4)]

    def work(tensor: torch.Tensor) -> None:
        for _ in range(200):
            tensor.sin()

    threads = [threading.Thread(target=work, args=(tensor,)) for tensor in tensors]
    with sim.record() as recorded:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert recorded.stats.operations["fxsim:0"] == 400
    assert recorded.stats.operations["fxsim:1"] == 400
