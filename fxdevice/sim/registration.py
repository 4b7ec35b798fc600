"""Registers the simulated devices with PyTorch under the name `fxsim`."""

from __future__ import annotations

import atexit
import gc
import os
import threading

import torch
from torch.utils import backend_registration

from fxdevice.errors import DeviceError, FxDeviceError
from fxdevice.sim import extension as ext

__all__ = ["SimStateError", "device_count", "enable", "is_enabled"]

# PyTorch's name of the dispatch key for backends outside its own tree, until one takes it.
_UNCLAIMED_NAME = "privateuseone"
_lock = threading.Lock()


class SimStateError(FxDeviceError, RuntimeError):
    """The simulated devices cannot be enabled, or not as many, in the state of this process."""


def enable(num_devices: int = 8) -> None:
    """Makes the devices `fxsim:0` to `fxsim:{num_devices - 1}`.

    The first call on a machine builds a small C++ extension, which takes about half a minute and a
    C++ compiler; later processes load it from a cache folder. Calling again with the same number
    does nothing. With another number it changes how many devices there are, as long as no tensor
    lies on any of them.

    Args:
        num_devices: how many devices, 1 to 64.

    Raises:
        TypeError: `num_devices` is not an int.
        DeviceError: `num_devices` is out of range.
        SimStateError: PyTorch's slot for an outside backend is taken by another one, or tensors
            are alive on the simulated devices while their number is to change.
        SimBuildError: the extension cannot be built.
    """
    if isinstance(num_devices, bool) or not isinstance(num_devices, int):
        raise TypeError(f"num_devices: expected an int, got {num_devices!r}")
    with _lock:
        _check_backend_slot()
        known = ext.load()
        if not 1 <= num_devices <= known.MAX_DEVICES:
            raise DeviceError(
                f"num_devices: expected 1 to {known.MAX_DEVICES} simulated devices, "
                f"got {num_devices}"
            )
        if known.device_count() == num_devices:
            return
        if known.device_count() == 0:
            _register()
            _release_at_exit(known)
        else:
            _check_nothing_alive(known, num_devices)
        known.set_device_count(num_devices)


def is_enabled() -> bool:
    """Whether `enable` has been called with success in this process."""
    return device_count() > 0


def device_count() -> int:
    """Number of simulated devices; 0 before `enable`."""
    return ext.extension().device_count() if ext.is_loaded() else 0


def _check_backend_slot() -> None:
    # There is one slot for a backend outside of PyTorch's own tree, and a name sticks to it.
    name = torch._C._get_privateuse1_backend_name()
    if name not in (_UNCLAIMED_NAME, ext.BACKEND_NAME):
        raise SimStateError(
            f"PyTorch holds one outside backend per process, and here it is {name!r} already: "
            "enable the simulated devices in a process that does not load that backend"
        )


def _check_nothing_alive(known: ext.Extension, num_devices: int) -> None:
    gc.collect()
    if _num_bytes_alive(known):
        known.wait_for_autograd_threads()
    alive = _num_bytes_alive(known)
    if alive:
        held = ", ".join(f"{num_bytes} bytes on {device}" for device, num_bytes in alive.items())
        raise SimStateError(
            f"cannot change the number of simulated devices from {known.device_count()} to "
            f"{num_devices} while tensors are alive on them ({held}): delete them first"
        )


def _num_bytes_alive(known: ext.Extension) -> dict[str, int]:
    return {
        f"{ext.BACKEND_NAME}:{index}": known.allocated_bytes(index)
        for index in range(known.device_count())
        if known.allocated_bytes(index) > 0
    }


def _release_at_exit(known: ext.Extension) -> None:
    # A thread of autograd that releases the last backward's tensors while the interpreter ends
    # asks for the GIL, is refused it, and takes the process down.
    process = os.getpid()

    def wait() -> None:
        if os.getpid() == process:  # a forked child has none of these threads
            known.wait_for_autograd_threads()

    atexit.register(wait)


def _register() -> None:
    # Imported here: importing fxdevice.sim stays free of everything that enable() needs.
    from fxdevice.sim import compile_support, device_module

    backend_registration.rename_privateuse1_backend(ext.BACKEND_NAME)
    torch._register_device_module(ext.BACKEND_NAME, device_module)  # type: ignore[no-untyped-call]
    # Adds Tensor.fxsim(), Tensor.is_fxsim and the like, which torch.load and nn.Module use.
    backend_registration.generate_methods_for_privateuse1_backend()
    compile_support.share_random_state_with_cpu()
