import gc

import pytest
import torch
import torch.nn.functional as F

import fxdevice.sim as sim
from fxdevice.errors import DeviceError

# Tests elsewhere may leave tensors on the first devices; nothing else uses this one.
DEVICE = "fxsim:6"


@pytest.fixture(autouse=True)
def nothing_allocated() -> None:
    gc.collect()
    assert sim.memory_allocated(DEVICE) == 0


def test_storages_are_charged_until_they_are_freed() -> None:
    x = torch.empty(10, dtype=torch.float64, device=DEVICE)
    view = x[5:]
    assert sim.memory_allocated(DEVICE) == 80
    del x
    assert sim.memory_allocated(DEVICE) == 80
    y = view.sin()
    assert sim.memory_allocated(DEVICE) == 120
    del view, y
    assert sim.memory_allocated(DEVICE) == 0


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x @ x,
        lambda x: x.softmax(0),
        lambda x: F.conv1d(x[None], x[:, :, None]),
        lambda x: torch.linalg.qr(x),
        lambda x: x.topk(2),
        lambda x: x.unique(return_counts=True),
        lambda x: x.chunk(2),
        lambda x: torch.nonzero(x),
        lambda x: F.group_norm(x[None], 2),
        lambda x: torch.sort(x),
        lambda x: x[x > 0],
        lambda x: torch._foreach_add([x, x], 1.0),
    ],
)
def test_results_are_charged_and_freed(compute: object) -> None:
    x = torch.rand(4, 4, device=DEVICE) + 0.5
    alone = sim.memory_allocated(DEVICE)
    result = compute(x)  # type: ignore[operator]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in torch.utils._pytree.tree_leaves(result)
        if isinstance(tensor, torch.Tensor)
    }
    storages.pop(x.untyped_storage().data_ptr(), None)
    assert sim.memory_allocated(DEVICE) == alone + sum(storages.values())
    del result, x
    assert sim.memory_allocated(DEVICE) == 0


def test_nothing_is_left_after_training() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    ).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 1, 4, 4, device=DEVICE)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert sim.memory_allocated(DEVICE) > 0
    del model, optimizer
    gc.collect()
    assert sim.memory_allocated(DEVICE) == 0


def test_resizing_charges_the_difference() -> None:
    x = torch.arange(4.0, device=DEVICE)
    view = x[:2]
    x.resize_(10)
    assert sim.memory_allocated(DEVICE) == 40
    assert x[:4].tolist() == [0.0, 1.0, 2.0, 3.0]
    x[0] = 7.0
    assert view[0].item() == 7.0
    x.untyped_storage().resize_(0)
    assert sim.memory_allocated(DEVICE) == 0


def test_out_of_memory() -> None:
    sim.set_memory_limit(DEVICE, 2048)
    kept = torch.zeros(256, device=DEVICE)
    with pytest.raises(
        torch.OutOfMemoryError,
        match=r"fxsim out of memory\. Tried to allocate 1\.17 KiB\. Device 6 has a total capacity "
        r"of 2\.00 KiB of which 1\.00 KiB is free\.",
    ):
        torch.zeros(300, device=DEVICE)
    assert sim.memory_allocated(DEVICE) == 1024
    assert torch.zeros(256, device=DEVICE).tolist() == kept.tolist()  # exactly what is left
    sim.set_memory_limit(DEVICE, None)
    assert torch.zeros(3000, device=DEVICE).numel() == 3000


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + x,
        lambda x: x.unique(),
        lambda x: F.conv1d(x.view(1, 4, 64), torch.ones(4, 4, 1, device=DEVICE)),
        lambda x: x.resize_(512),
        lambda x: torch.sin(x, out=torch.empty(0, device=DEVICE)),
        lambda x: x.cpu().to(DEVICE),
    ],
)
def test_every_way_to_allocate_obeys_the_limit(compute: object) -> None:
    x = torch.arange(256.0, device=DEVICE)
    sim.set_memory_limit(DEVICE, 1200)
    with pytest.raises(torch.OutOfMemoryError, match="fxsim out of memory"):
        compute(x)  # type: ignore[operator]
    sim.set_memory_limit(DEVICE, None)
    assert x.tolist() == list(range(256))
    assert sim.memory_allocated(DEVICE) == 1024


def test_out_of_memory_in_backward() -> None:
    x = torch.ones(256, device=DEVICE, requires_grad=True)
    y = x.sin().sum()
    sim.set_memory_limit(DEVICE, sim.memory_allocated(DEVICE) + 100)
    with pytest.raises(torch.OutOfMemoryError, match="fxsim out of memory"):
        y.backward()  # type: ignore[no-untyped-call]
    sim.set_memory_limit(DEVICE, None)
    assert x.grad is None
    del x, y
    gc.collect()
    assert sim.memory_allocated(DEVICE) == 0


def test_peak() -> None:
    sim.reset_peak_memory_stats(DEVICE)
    x = torch.empty(100, device=DEVICE)
    del x
    assert sim.memory_allocated(DEVICE) == 0
    assert sim.max_memory_allocated(DEVICE) == 400
    assert torch.accelerator.max_memory_allocated(DEVICE) == 400
    sim.reset_peak_memory_stats(DEVICE)
    assert sim.max_memory_allocated(DEVICE) == 0


def test_memory_info_honours_the_limit() -> None:
    x = torch.empty(100, device=DEVICE)
    assert torch.get_device_module("fxsim").mem_get_info(DEVICE) == ((8 << 30) - 400, 8 << 30)
    sim.set_memory_limit(DEVICE, 1000)
    assert torch.get_device_module("fxsim").mem_get_info(6) == (600, 1000)
    sim.set_memory_limit(DEVICE, 0)
    assert sim.mem_get_info(DEVICE) == (0, 0)
    assert x.numel() == 100


@pytest.mark.parametrize("device", [8, -1, "fxsim:9", "cpu", "cuda:0"])
def test_limits_of_unknown_devices(device: int | str) -> None:
    with pytest.raises(DeviceError, match="expected a"):
        sim.set_memory_limit(device, 10)


def test_unusable_limits() -> None:
    with pytest.raises(ValueError, match="expected 0 or more bytes, got -1"):
        sim.set_memory_limit(0, -1)
    with pytest.raises(TypeError, match="expected an int or None"):
        sim.set_memory_limit(0, "1GB")  # type: ignore[arg-type]
