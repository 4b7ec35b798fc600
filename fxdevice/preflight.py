"""What can be refused before a module is changed and before anything is traced."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fxdevice.errors import CompileOptionError, PlacementError, StateError
from fxdevice.options import CompileOptions
from fxdevice.state import state_tensors

__all__ = ["check_module", "unknown_names"]


def check_module(module: nn.Module, options: CompileOptions) -> None:
    """Checks that the options fit the module.

    Raises:
        CompileOptionError: A pin names no module, parameter or buffer; or a submodule is compiled
            by fxdevice already.
        PlacementError: The state is larger than all memory limits together.
        StateError: A lazy module has no shapes yet.
    """
    lazy = [s.name for s in state_tensors(module) if torch.nn.parameter.is_lazy(s.tensor)]
    if lazy:
        raise StateError(
            f"expected a module with weights; {len(lazy)} of its lazy tensors have no shape yet, "
            f"the first is {lazy[0]!r}. Call the module once before fxdevice.compile"
        )
    unknown = unknown_names(module, options.pins)
    if unknown:
        top = sorted(name for name, _ in module.named_children())
        raise CompileOptionError(
            f"device_map names {unknown[0]!r}, which is no module of {type(module).__name__}; "
            f"its children are {top}"
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


def unknown_names(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Returns those of `names`, sorted, that are no module, parameter or buffer of `module`."""
    known = {name for name, _ in module.named_modules(remove_duplicate=False)}
    known |= {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return sorted(set(names) - known)
