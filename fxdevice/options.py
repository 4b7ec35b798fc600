"""The options of `fxdevice.compile`, checked before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from fxdevice.devices import DeviceLike, resolve_device, resolve_devices
from fxdevice.errors import CompileOptionError, DeviceError, PlanError
from fxdevice.memory_model import OPTIMIZERS
from fxdevice.placers import strategy_names
from fxdevice.plans import Plan
from fxdevice.staging import DevicePairs

__all__ = ["CompileOptions", "InnerLike", "make_options", "parse_bytes"]

InnerLike: TypeAlias = str | Callable[..., Any]

_REPAIR = ("warn", "silent", "error")

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", start=1)}
_UNITS |= {f"{letter}IB": 1024**power for power, letter in enumerate("KMGTP", start=1)}


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Checked options.

    Attributes:
        devices: Device of every slot.
        strategy: Name of the placer, or "auto".
        pins: Slot index of pinned modules, by module name ("" is the whole model).
        memory_bytes: Memory limit of every slot; None when there is none.
        inner: Inner compiler: a name, a callable, or None for the default.
        output_device: Where results go; None for where the inputs came from.
        dynamic: As in `torch.compile`.
        fullgraph: As in `torch.compile`: refuse graph breaks.
        debug: Run node by node and check the devices: False, True, or "numbers" to look for NaN and
            infinity as well.
        repair: "warn", "silent" or "error": what to do where eager code would mix devices.
        plan: The plan to follow, or None.
        no_split: Modules that must not be divided: what the caller wrote, and qualified names once
            `fxdevice.preflight.check_module` has seen the module.
        profile: Measure modules before they are placed, and partitions when they run first.
        optimizer: Whose state must find room, one of `fxdevice.memory_model.OPTIMIZERS`; or None.
        via_host: Devices between which everything is staged: no choice of the caller's, it is what
            `fxdevice.machine.with_known_faults` finds.
    """

    devices: tuple[torch.device, ...]
    strategy: str = "auto"
    pins: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    memory_bytes: tuple[int | None, ...] = ()
    inner: InnerLike | None = None
    output_device: torch.device | None = None
    dynamic: bool | None = None
    fullgraph: bool = False
    repair: str = "warn"
    debug: bool | str = False
    plan: Plan | None = None
    no_split: tuple[str, ...] = ()
    profile: bool = False
    optimizer: str | None = None
    via_host: DevicePairs = frozenset()


def make_options(
    devices: Sequence[DeviceLike] | None,
    *,
    strategy: str = "auto",
    device_map: Mapping[str, DeviceLike] | str | None = None,
    max_memory: Mapping[DeviceLike, int | str] | None = None,
    inner: InnerLike | None = None,
    output_device: DeviceLike | None = None,
    dynamic: bool | None = None,
    fullgraph: bool = False,
    repair: str = "warn",
    debug: bool | str = False,
    plan: Plan | None = None,
    no_split: Sequence[str] = (),
    profile: bool = False,
    optimizer: str | None = None,
) -> CompileOptions:
    """Returns checked options. The arguments are those of `fxdevice.compile`.

    Raises:
        DeviceError: See `resolve_devices`.
        CompileOptionError: Any other option has an unusable value.
        PlanError: The plan is for another number of slots, or another option contradicts it.
        TypeError: An option has a value of the wrong type.
    """
    resolved = resolve_devices(devices)
    names = ("auto", *strategy_names())
    if strategy not in names:
        raise CompileOptionError(f"unknown strategy {strategy!r}; expected one of {list(names)}")
    for name, flag in (("dynamic", dynamic), ("fullgraph", fullgraph), ("profile", profile)):
        if not isinstance(flag, bool) and not (flag is None and name == "dynamic"):
            raise TypeError(f"{name} must be True or False; found {flag!r}")
    if repair not in _REPAIR:
        raise CompileOptionError(f"unknown repair={repair!r}; expected one of {list(_REPAIR)}")
    if not isinstance(debug, bool) and debug != "numbers":
        raise CompileOptionError(f"unknown debug={debug!r}; expected False, True or 'numbers'")
    if debug and inner not in (None, "eager"):
        raise CompileOptionError(
            f"debug={debug!r} runs the nodes one by one, so that inner={inner!r} has nothing to "
            "compile; leave inner out"
        )
    if debug and profile:
        raise CompileOptionError(
            f"profile=True measures compiled partitions, and debug={debug!r} runs the nodes one by "
            "one; leave one of them out"
        )
    if not (inner is None or isinstance(inner, str) or callable(inner)):
        raise TypeError(
            f"inner must be the name of a Dynamo backend or a callable; found {inner!r}"
        )
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise CompileOptionError(
            f"unknown optimizer {optimizer!r}; expected one of {', '.join(OPTIMIZERS)}. For "
            "another one name the one with the most similar state"
        )
    pins, whole = _pins(device_map, resolved), _names(no_split)
    if plan is not None:
        _check_plan(plan, len(resolved), strategy, pins, no_split, optimizer)
        whole, optimizer = plan.no_split, plan.optimizer
        pins = MappingProxyType({name: state.slot for name, state in plan.state.items()})
    return CompileOptions(
        devices=resolved,
        strategy=strategy,
        pins=pins,
        memory_bytes=_memory_bytes(max_memory, resolved),
        inner=inner,
        output_device=None if output_device is None else resolve_device(output_device),
        dynamic=dynamic,
        fullgraph=fullgraph,
        repair=repair,
        debug=debug,
        plan=plan,
        no_split=whole,
        profile=profile,
        optimizer=optimizer,
    )


def parse_bytes(size: int | str) -> int:
    """Returns the number of bytes that `size` means: 1024, "10GB" (decimal), "10GiB" (binary).

    Raises:
        CompileOptionError: `size` is negative or not understood.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = re.fullmatch(
        r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size if isinstance(size, str) else ""
    )
    if match is None or match[2].upper() not in _UNITS:
        raise CompileOptionError(
            f"cannot read {size!r} as a memory size; expected bytes or text such as '10GiB'"
        )
    return int(Decimal(match[1]) * _UNITS[match[2].upper()])


def _pins(
    device_map: Mapping[str, DeviceLike] | str | None, devices: tuple[torch.device, ...]
) -> Mapping[str, int]:
    if device_map is None or device_map == "auto":
        return MappingProxyType({})
    if not isinstance(device_map, Mapping):
        raise CompileOptionError(
            f"device_map must map module names to devices (or be 'auto'); found {device_map!r}"
        )
    for name in device_map:
        if not isinstance(name, str):
            raise TypeError(f"the keys of device_map must be module names; found {name!r}")
    return MappingProxyType(
        {
            name: _slot_named(device, devices, f"device_map[{name!r}]")
            for name, device in device_map.items()
        }
    )


def _names(no_split: Sequence[str]) -> tuple[str, ...]:
    """Returns what must not be split, as it was written.

    Raises:
        TypeError: It is no sequence of strings.
    """
    is_list = isinstance(no_split, Sequence) and not isinstance(no_split, str)
    if not is_list or not all(isinstance(name, str) for name in no_split):
        raise TypeError(
            "no_split must be a list of names of module classes or modules, such as "
            f"['LlamaDecoderLayer']; found {no_split!r}"
        )
    return tuple(no_split)


def _check_plan(
    plan: Plan,
    num_slots: int,
    strategy: str,
    pins: Mapping[str, int],
    no_split: Sequence[str],
    optimizer: str | None,
) -> None:
    """Refuses a plan that the other options contradict.

    Raises:
        PlanError: They do.
        TypeError: It is no plan.
    """
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan must be what fxdevice.plan or Plan.load returns; found {type(plan).__name__}"
        )
    planned = len(plan.topology.slots)
    if planned != num_slots:
        raise PlanError(
            f"the plan is for {planned} slots, and devices names {num_slots}; name as many devices "
            "as the plan has slots, or make a plan for these"
        )
    if strategy not in ("auto", plan.strategy):
        raise PlanError(
            f"the plan has the strategy {plan.strategy!r}, and strategy={strategy!r} was asked for;"
            " leave strategy out, or make a plan with it"
        )
    if pins:
        raise PlanError("the plan says where modules go; leave device_map out, or plan with it")
    if optimizer not in (None, plan.optimizer):
        raise PlanError(
            f"the plan has room for the state of {plan.optimizer or 'no optimizer'}, and "
            f"optimizer={optimizer!r} was asked for; leave optimizer out, or plan with it"
        )
    if no_split:
        raise PlanError("the plan says what stays together; leave no_split out, or plan with it")


def _memory_bytes(
    max_memory: Mapping[DeviceLike, int | str] | None, devices: tuple[torch.device, ...]
) -> tuple[int | None, ...]:
    if max_memory is not None and not isinstance(max_memory, Mapping):
        raise TypeError(f"max_memory must map devices to sizes; found {max_memory!r}")
    limits: list[int | None] = [None] * len(devices)
    for key, size in (max_memory or {}).items():
        if key == "cpu" and devices[0].type != "cpu":
            continue  # Accelerate's offload limit; nothing is offloaded, so it limits nothing
        slot = _slot_named(key, devices, f"max_memory[{key!r}]")
        if devices[slot].type == "cpu" and isinstance(key, int):
            limits[slot] = parse_bytes(size)
            continue
        sharing = [i for i, device in enumerate(devices) if device == devices[slot]]
        for i in sharing:
            limits[i] = parse_bytes(size) // len(sharing)
    return tuple(limits)


def _slot_named(device: DeviceLike, devices: tuple[torch.device, ...], where: str) -> int:
    """Returns the slot that `device` means; on CPU slots an int is the slot's own index."""
    if devices[0].type == "cpu" and isinstance(device, int) and not isinstance(device, bool):
        if not 0 <= device < len(devices):
            raise CompileOptionError(f"{where} names slot {device}; there are {len(devices)} slots")
        return device
    try:
        found = resolve_device(device)
    except DeviceError as error:
        raise CompileOptionError(f"{where}: {error}") from error
    if found not in devices:
        raise CompileOptionError(
            f"{where} names {found}, which is not in devices={list(map(str, devices))}"
        )
    return devices.index(found)
