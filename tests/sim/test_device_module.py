"""`torch.fxsim` and `torch.accelerator` on the simulated devices."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fxdevice.errors import DeviceError


@pytest.fixture(autouse=True)
def first_device_is_current() -> None:
    torch.get_device_module("fxsim").set_device(0)


def test_the_accelerator_of_this_process() -> None:
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("fxsim")
    assert torch.accelerator.device_count() == 8
    torch.accelerator.synchronize()
    torch.accelerator.synchronize("fxsim:3")


def test_current_device() -> None:
    module = torch.get_device_module("fxsim")
    assert torch.empty(1, device="fxsim").device == torch.device("fxsim:0")
    with module.device(2):
        assert module.current_device() == 2
        assert torch.empty(1, device="fxsim").device == torch.device("fxsim:2")
        with module.device(None), module.device("fxsim"):
            assert torch.accelerator.current_device_index() == 2
        with torch.accelerator.device_index(3):
            assert module.current_device() == 3
    assert module.current_device() == 0
    module.set_device("fxsim:5")
    assert torch.accelerator.current_device_index() == 5
    with pytest.raises(DeviceError, match="fxsim:0 to fxsim:7, got index 8"):
        module.set_device(8)


def test_questions_that_libraries_ask() -> None:
    module = torch.get_device_module("fxsim")
    assert module.is_available()
    assert module.is_initialized()
    assert module.device_count() == 8
    assert module.is_bf16_supported()
    assert torch.bfloat16 in module.get_amp_supported_dtype()
    assert module.get_device_name(1) == "fxdevice simulated device 1"
    properties = module.get_device_properties("fxsim:1")
    assert (properties.name, properties.total_memory) == ("fxdevice simulated device 1", 8 << 30)
    module.init()
    module.empty_cache()
    module.synchronize("fxsim:1")
    assert module.memory_reserved(7) == module.memory_allocated(7)
    assert module.max_memory_reserved(7) == module.max_memory_allocated(7)


def test_streams() -> None:
    module = torch.get_device_module("fxsim")
    stream = module.Stream(device="fxsim:1")
    assert stream.device == torch.device("fxsim:1")
    assert stream != module.current_stream(1)
    assert module.current_stream(1) == module.default_stream(1)
    with module.stream(stream):
        assert module.current_stream(1) == stream
        assert torch.accelerator.current_stream(1) == stream
        assert module.current_stream(0) == module.default_stream(0)
    with module.stream(None):
        assert module.current_stream(1) == module.default_stream(1)
    stream.synchronize()
    stream.wait_stream(module.current_stream(1))
    assert stream.query()
    torch.ones(1, device="fxsim:1").record_stream(stream)


def test_events() -> None:
    module = torch.get_device_module("fxsim")
    start, end = (module.Event(device="fxsim:1", enable_timing=True) for _ in range(2))
    start.record(module.current_stream(1))
    torch.ones(100, device="fxsim:1").sin()
    end.record(module.current_stream(1))
    end.synchronize()
    module.current_stream(1).wait_event(end)
    assert end.query()
    assert start.elapsed_time(end) >= 0


def test_pinned_memory() -> None:
    x = torch.arange(4.0)
    assert not x.is_pinned()
    pinned = x.pin_memory()
    assert pinned.is_pinned()
    assert pinned[2:].is_pinned()
    assert pinned.to("fxsim:1", non_blocking=True).tolist() == x.tolist()
    assert not torch.ones(2, device="fxsim:0").is_pinned()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_loader(num_workers: int) -> None:
    data = TensorDataset(torch.arange(6.0))
    total = torch.zeros((), device="fxsim:1")
    for (batch,) in DataLoader(data, batch_size=4, pin_memory=True, num_workers=num_workers):
        assert batch.is_pinned()
        total += batch.to("fxsim:1").sum()
    assert total.item() == 15
