"""What transfers send of state, where state stays the same from call to call.

The copy that such a transfer makes is kept (`fxdevice.runtime.kept_copies`). The transfer reads the
state itself and takes the view of it when it sends it. So whether the copy is still right can be
asked of the state, and no partition computes what is only sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxdevice.op_kinds import view_base
from fxdevice.placed_graph import PlacedGraph
from fxdevice.runtime.program import StateView, ViewOperation
from fxdevice.transfer_op import (
    is_transfer,
    transfer_destination,
    transfer_is_packed,
    transfer_source,
)

__all__ = ["with_state_views"]

_CONSTANTS = (
    bool,
    int,
    float,
    str,
    type(None),
    torch.device,
    torch.dtype,
    torch.layout,
    torch.memory_format,
)


def with_state_views(
    placed: PlacedGraph, state: Mapping[str, str | None]
) -> tuple[PlacedGraph, Mapping[str, StateView]]:
    """Returns a placed graph as it is to be run, where some state stays the same between calls.

    Transfers to slots of such state, and of plain views of it (operators and constants only), read
    the state there. Views that nothing else reads are gone.

    Args:
        placed: A verified placed graph; it is not changed.
        state: What `GraphInputs.resident_state` returns.

    Returns:
        The graph, and what each of those transfers takes of the state, by the transfer's name.
    """
    if not state:
        return placed, {}
    running = placed.copy()
    found: dict[str, StateView] = {}
    taken: set[fx.Node] = set()
    for node in running.graph.nodes:
        if not is_transfer(node) or not placed.slot_of(node).computes:
            continue
        chain = _chain(transfer_source(node), state)
        if chain is None:
            continue
        root, *views = chain
        found[node.name] = _state_view(state[root.name], views, node)
        node.update_arg(0, root)
        taken.update(views)
    for node in list(reversed(running.graph.nodes)):
        if node in taken and not node.users:
            running.graph.erase_node(node)
    return running, found


def _chain(node: fx.Node, state: Mapping[str, str | None]) -> list[fx.Node] | None:
    """Returns state and the views that lead from it to `node`; None when there is no such chain."""
    chain = [node]
    while chain[-1].name not in state:
        base = view_base(chain[-1])
        if base is None or not _is_constant_but_for(chain[-1], base):
            return None
        chain.append(base)
    return chain[::-1]


def _is_constant_but_for(node: fx.Node, base: fx.Node) -> bool:
    """Returns whether the first argument is `base` and all others are constants."""
    if not node.args or node.args[0] is not base:
        return False
    return _is_constant((node.args[1:], tuple(node.kwargs.values())))


def _is_constant(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_constant, value))
    return isinstance(value, _CONSTANTS)


def _state_view(name: str | None, views: list[fx.Node], transfer: fx.Node) -> StateView:
    operations: tuple[ViewOperation, ...] = tuple(
        (_target(node), tuple(node.args[1:]), tuple(node.kwargs.items())) for node in views
    )
    texts = [f"{target}{args}{kwargs}" for target, args, kwargs in operations]
    packed = ["packed"] if transfer_is_packed(transfer) else []
    key = " ".join((str(transfer_destination(transfer)), *packed, *texts))
    return StateView(name, key, operations)


def _target(node: fx.Node) -> Any:
    assert callable(node.target)
    return node.target
