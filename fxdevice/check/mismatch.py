"""Which errors of PyTorch say that an operation met tensors on several devices.

PyTorch has no class for them, except for fake tensors since 2.13. The sentences come from the
device checks of dispatched kernels, of indexing, convolution and RNN code, and of fake tensors.
"""

from __future__ import annotations

import re

__all__ = ["is_device_mismatch"]

_SENTENCES = re.compile(
    r"same device|at least two devices|on different devices|different device types?"
    r"|indices should be either on|Unhandled FakeTensor Device Propagation"
    r"|Input type \(.*\) and (weight|bias) type \(.*\) should be the same"
    r"|is on \S+, but expected|is not on the expected device|expected device \S+ but got"
    r"|Expected all tensors to be on|must be on the same|Cannot access data pointer of Tensor that"
    r"|variable\.set_data\(tensor\).*incompatible tensor type|Expected a '.*' device type for gener"
)


def is_device_mismatch(error: BaseException) -> bool:
    """Returns whether `error` is about devices; its arguments still decide."""
    if not isinstance(error, (RuntimeError, ValueError)):
        return False
    if type(error).__name__ == "FakeTensorDeviceMismatchError":
        return True
    return _SENTENCES.search(str(error)) is not None
