import gc
import os

import pytest
import torch

import fxdevice.sim as sim
from fxdevice.errors import DeviceError
from tests.sim.script import run_script


def test_import_builds_and_registers_nothing() -> None:
    printed = run_script(
        """
        import torch
        import fxdevice.sim as sim
        print(sim.is_enabled(), sim.device_count(), torch._C._get_privateuse1_backend_name())
        try:
            sim.stats()
        except sim.SimNotEnabledError as error:
            print(error)
        """,
        FXDEVICE_CACHE="/nowhere",
    )
    assert printed.splitlines() == [
        "False 0 privateuseone",
        "the simulated devices are not enabled: call fxdevice.sim.enable(num_devices) first",
    ]


def test_enable_is_idempotent() -> None:
    sim.enable(8)
    assert sim.is_enabled()
    assert sim.device_count() == 8
    assert torch.device("fxsim:7").type == "fxsim"


def test_enabling_another_number_needs_devices_without_tensors() -> None:
    alive = torch.ones(4, device="fxsim:1")
    gc.collect()  # as enable does
    num_bytes = sim.memory_allocated("fxsim:1")  # other tests may have left some
    words = rf"from 8 to 3 while tensors .*\b{num_bytes} bytes on fxsim:1"
    with pytest.raises(sim.SimStateError, match=words):
        sim.enable(3)
    assert sim.device_count() == 8
    assert alive.sum().item() == 4


@pytest.mark.parametrize("num_devices", [0, -1, 65])
def test_number_of_devices_out_of_range(num_devices: int) -> None:
    with pytest.raises(DeviceError, match=f"expected 1 to 64 simulated devices, got {num_devices}"):
        sim.enable(num_devices)


@pytest.mark.parametrize("num_devices", [2.0, "2", True, None])
def test_number_of_devices_of_another_type(num_devices: object) -> None:
    with pytest.raises(TypeError, match="expected an int"):
        sim.enable(num_devices)  # type: ignore[arg-type]


def test_another_backend_in_the_slot() -> None:
    printed = run_script(
        """
        import torch
        import fxdevice.sim as sim
        torch.utils.rename_privateuse1_backend("npu")
        try:
            sim.enable(2)
        except sim.SimStateError as error:
            print(error)
        print(sim.is_enabled())
        """
    )
    assert printed.splitlines() == [
        "PyTorch holds one outside backend per process, and here it is 'npu' already: enable the "
        "simulated devices in a process that does not load that backend",
        "False",
    ]


def test_enabling_after_autograd_has_started_its_threads() -> None:
    # Autograd counts the devices once, at the first backward of a process.
    printed = run_script(
        """
        import torch
        import fxdevice.sim as sim

        def last_device_gradient(num_devices):
            sim.enable(num_devices)
            x = torch.ones(3, device=f"fxsim:{num_devices - 1}", requires_grad=True)
            (2 * x).sum().backward()
            return x.grad.tolist()

        torch.ones(2, requires_grad=True).sum().backward()
        for num_devices in (2, 5, 3):
            print(last_device_gradient(num_devices))
        """
    )
    assert printed.splitlines() == ["[2.0, 2.0, 2.0]"] * 3


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux's scheduler")
def test_a_process_that_ends_right_after_a_backward_ends_well() -> None:
    # On one core, threads that run only when nothing else does are late in releasing tensors.
    printed = run_script(
        """
        import os
        import torch
        import fxdevice.sim as sim

        def gradient():
            x = torch.ones(3, device="fxsim:1", requires_grad=True)
            (2 * x).sum().backward()
            return x.grad.tolist()

        sim.enable(2)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        gradient()
        for thread in map(int, os.listdir("/proc/self/task")):
            if thread != os.getpid():
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        print(gradient())
        """
    )
    assert printed.splitlines() == ["[2.0, 2.0, 2.0]"]
