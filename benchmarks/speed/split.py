"""The one cut that everything that is split by hand follows: equal arithmetic on both sides."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.parts import Chain, WithLoss

__all__ = ["balanced_cuts", "cut_blocks", "module_slots", "units"]


def units(module: nn.Module) -> list[str]:
    """Returns the names of the modules that are kept whole, in the order of their registration.

    Opened are lists, what only wraps one other module or one list, and what is under a loss.
    """
    found = []
    children = list(module.children())
    for name, child in module.named_children():
        inside = list(child.children())
        is_list = isinstance(child, (nn.ModuleList, nn.Sequential, Chain))
        wraps_list = len(inside) == 1 and isinstance(inside[0], nn.ModuleList)
        is_wrapped = len(children) == 1 or (isinstance(module, WithLoss) and child is module.model)
        if is_list or wraps_list or is_wrapped:
            found += [f"{name}.{inner}" for inner in units(child)] or [name]
        else:
            found.append(name)
    return found


def module_slots(module: nn.Module, args: Sequence[Any], num_slots: int) -> dict[str, int]:
    """Returns the slot of every unit, so that the slots have about equal arithmetic.

    Args:
        module: The model; it is run once, as a copy, on the CPU.
        args: Arguments of a call.
        num_slots: Number of slots.
    """
    model = copy.deepcopy(module)
    names = units(model)
    flops = dict.fromkeys(names, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for name in names:
            part = model.get_submodule(name)

            def before(*_: object, name: str = name) -> None:
                flops[name] -= counter.get_total_flops()

            def after(*_: object, name: str = name) -> None:
                flops[name] += counter.get_total_flops()

            part.register_forward_pre_hook(before)
            part.register_forward_hook(after)
        model(*args)
    cuts = balanced_cuts([flops[name] for name in names], num_slots)
    return {name: sum(cut <= i for cut in cuts) for i, name in enumerate(names)}


def balanced_cuts(work: Sequence[float], num_slots: int) -> list[int]:
    """Returns where the slots after the first begin, so that each has about its share of the work.

    >>> balanced_cuts([1, 1, 1, 1, 4], 2)
    [4]
    >>> balanced_cuts([0, 0, 0, 0], 2)
    [1]
    """
    done = list(itertools.accumulate(work))
    cuts: list[int] = []
    for slot in range(1, num_slots):
        first = cuts[-1] + 1 if cuts else 1
        last = max(first, len(work) - num_slots + slot)
        share = done[-1] * slot / num_slots
        cuts.append(min(range(first, last + 1), key=lambda i: abs(done[i - 1] - share)))
    return cuts


def cut_blocks(module: nn.Module, slots: dict[str, int]) -> list[nn.Sequential]:
    """Returns the stages of a chain, cut where the slot changes.

    Raises:
        ValueError: The model is no chain, so that nobody could cut it without rewriting it.
    """
    if not isinstance(module, Chain):
        raise ValueError("cannot be cut by hand without rewriting it: not one block after another")
    stages: dict[int, list[nn.Module]] = {}
    for index, block in enumerate(module.blocks):
        prefix = f"blocks.{index}"
        slot = next(s for n, s in slots.items() if n == prefix or n.startswith(f"{prefix}."))
        stages.setdefault(slot, []).append(block)
    return [nn.Sequential(*blocks) for _, blocks in sorted(stages.items())]
