"""Accelerate's own placement, on the simulated devices: what fxdevice is compared with.

Accelerate names accelerators by number in `max_memory` and refuses any other name there, but takes
any device string in a device map. So the map is made for the numbers 0 to n-1, whose sizes need no
device to exist, and then renamed.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping

from torch import nn

# Without a limit of its own, no device would be left out because of its size.
_AMPLE_BYTES = 1 << 40


@contextlib.contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Silence warnings about numbers that are no CUDA devices: they are never used as devices."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def infer_device_map(model: nn.Module, num_devices: int) -> dict[str, str]:
    """Return the map that Accelerate makes for `device_map="auto"`.

    The model's bytes are shared out evenly over the devices, in the order in which the modules are
    registered. The modules that the model's class declares unsplittable stay whole, and so do those
    without submodules: in a model of ordinary size no limit falls inside one, in a tiny one it can.

    Args:
        model: The model; its `_no_split_modules`, where it has them, are respected.
        num_devices: How many simulated devices to use.

    Returns:
        Module name to device, "fxsim:0" and so on.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    leaves = {type(module).__name__ for module in model.modules() if not list(module.children())}
    no_split = sorted(leaves | set(getattr(model, "_no_split_modules", None) or ()))
    ample = dict.fromkeys(range(num_devices), _AMPLE_BYTES)
    with _quiet("accelerate.utils.modeling"):
        limits = get_balanced_memory(model, ample, no_split_module_classes=no_split)
        by_number = infer_auto_device_map(model, limits, no_split_module_classes=no_split)
    return {name: f"fxsim:{number}" for name, number in by_number.items()}


def dispatch_with_map(model: nn.Module, device_map: Mapping[str, str]) -> nn.Module:
    """Place the model as the map says and let Accelerate's hooks move the modules' inputs.

    Args:
        model: The model, on the CPU. It is changed in place.
        device_map: Module name to device string; every parameter must be covered.

    Returns:
        The same model.

    Raises:
        ValueError: The map leaves a parameter out.
    """
    from accelerate import dispatch_model

    # Accelerate would take the first of a set of strings, another one in every process.
    main_device = next(iter(device_map.values()))
    with warnings.catch_warnings():
        # Its own maps name parameters that are direct members of a module with submodules.
        warnings.filterwarnings("ignore", "The following device_map keys do not match")
        # force_hooks: inputs are to be moved for the caller even if one device is enough.
        placed: nn.Module = dispatch_model(
            model, dict(device_map), main_device=main_device, force_hooks=True
        )
    return placed


def dispatch_automatically(model: nn.Module, num_devices: int) -> nn.Module:
    """Place the model over simulated devices as Accelerate's `device_map="auto"` does.

    Args:
        model: The model, on the CPU. It is changed in place; `model.hf_device_map` has the map.
        num_devices: How many simulated devices to use.

    Returns:
        The same model.
    """
    return dispatch_with_map(model, infer_device_map(model, num_devices))
