"""What can be refused before a module is changed and before anything is traced."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import nn

from fxdevice.errors import CompileOptionError, PlacementError, PlanError, StateError
from fxdevice.options import CompileOptions
from fxdevice.pins import Pins
from fxdevice.plans import Plan
from fxdevice.state import state_tensors
from fxdevice.together import outermost

__all__ = [
    "check_module",
    "check_pins",
    "check_plan",
    "modules_named",
    "pins_of_whole",
    "unknown_names",
]


def check_module(module: nn.Module, options: CompileOptions) -> CompileOptions:
    """Checks that the options fit the module.

    Returns:
        The options, with `no_split` and pins by qualified names.

    Raises:
        CompileOptionError: A pin names no module, parameter or buffer; `no_split` names no module
            and no class of one; or a submodule is compiled by fxdevice already.
        PlanError: The plan is for another model.
        PlacementError: Pins contradict each other or `no_split`, or the state is larger than all
            memory limits together.
        StateError: A lazy module has no shapes yet.
    """
    lazy = [s.name for s in state_tensors(module) if torch.nn.parameter.is_lazy(s.tensor)]
    if lazy:
        raise StateError(
            f"expected a module with weights; {len(lazy)} of its lazy tensors have no shape yet, "
            f"the first is {lazy[0]!r}. Call the module once before fxdevice.compile"
        )
    if options.plan is not None:
        check_plan(module, options.plan)
    unknown = unknown_names(module, options.pins)
    if unknown:
        top = sorted(name for name, _ in module.named_children())
        raise CompileOptionError(
            f"device_map names {unknown[0]!r}, which is no module of {type(module).__name__}; "
            f"its children are {top}"
        )
    check_pins(module, Pins(options.pins))
    together = modules_named(module, options.no_split)
    options = replace(
        options, no_split=together, pins=pins_of_whole(module, options.pins, together)
    )
    limits = options.memory_bytes
    needed = sum(state.num_bytes for state in state_tensors(module))
    available = sum(limit for limit in limits if limit is not None)
    if limits and None not in limits and needed > available:
        raise PlacementError(
            f"the parameters and buffers take {needed:,} bytes and max_memory allows "
            f"{available:,} on {len(limits)} slots: {needed - available:,} bytes are missing. "
            f"Raise max_memory or name more devices"
        )
    return options


def check_plan(module: nn.Module, plan: Plan) -> None:
    """Refuses a plan that was made for another model.

    Raises:
        PlanError: A tensor of the plan is not in the module, or has another shape or type.
    """
    found = {state.name: state.tensor for state in state_tensors(module)}
    for name, planned in plan.state.items():
        tensor = found.get(name)
        if tensor is None:
            raise PlanError(
                f"the plan is for {plan.model} with a tensor {name!r}, which this "
                f"{type(module).__name__} does not have; make a plan for this model"
            )
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if (shape, dtype) != (planned.shape, planned.dtype):
            raise PlanError(
                f"the plan expects {name!r} as {planned.dtype} {list(planned.shape)}; found "
                f"{dtype} {list(shape)}. Make a plan for this model"
            )


def unknown_names(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Returns those of `names`, sorted, that are no module, parameter or buffer of `module`."""
    known = {name for name, _ in module.named_modules(remove_duplicate=False)}
    known |= {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return sorted(set(names) - known)


def check_pins(module: nn.Module, pins: Pins) -> None:
    """Refuses pins that put one tensor on two slots.

    Raises:
        PlacementError: A tensor has several names (tied weights) that are pinned to different
            slots.
    """
    seen: dict[int, tuple[str, int]] = {}
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    for name, tensor in named:
        slot = pins.slot_of(name)
        if slot is None:
            continue
        first, known = seen.setdefault(id(tensor), (name, slot))
        if known != slot:
            raise PlacementError(
                f"device_map contradicts itself: {first!r} and {name!r} are one tensor, pinned to "
                f"slot {known} and slot {slot}; pin both to one slot"
            )


def modules_named(module: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the qualified names of the modules that are meant by class or by name.

    Args:
        module: The model.
        names: Names of classes, or qualified names of modules.

    Raises:
        CompileOptionError: A name is neither; the text has those that come near.
    """
    known = {path: type(part).__name__ for path, part in module.named_modules() if path}
    found: list[str] = []
    for name in names:
        meant = [path for path, kind in known.items() if name in (path, kind)]
        if not meant:
            words = list(dict.fromkeys((*known.values(), *known)))
            near = difflib.get_close_matches(name, words, n=4, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise CompileOptionError(
                f"no_split names {name!r}, which is neither a module of {type(module).__name__} "
                f"nor the class of one{hint}"
            )
        found += meant
    return tuple(dict.fromkeys(found))


def pins_of_whole(
    module: nn.Module, pins: Mapping[str, int], together: Sequence[str]
) -> Mapping[str, int]:
    """Returns the pins with one for each whole module of which a part is pinned.

    Args:
        module: The model.
        pins: Slot by name of a module or tensor.
        together: Qualified names of modules that must not be divided.

    Raises:
        PlacementError: Parts of one of those modules are pinned to different slots.
    """
    if not pins or not together:
        return pins
    places = Pins(pins)
    names = [name for name, _ in module.named_modules(remove_duplicate=False)]
    names += [name for name, _ in module.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    whole = dict(pins)
    first: dict[str, tuple[str, int]] = {}
    for name in names:
        kept, slot = outermost(name, together), places.slot_of(name)
        # What is inside without a pin of its own goes with the pinned part.
        if kept is None or slot is None:
            continue
        pinned, known = first.setdefault(kept, (name, slot))
        if known != slot:
            raise PlacementError(
                f"device_map and no_split contradict each other: {kept!r} must not be split, and "
                f"{pinned!r} is pinned to slot {known}, {name!r} to slot {slot}; pin all of it to "
                "one slot"
            )
        whole[kept] = slot
    return MappingProxyType(whole)
