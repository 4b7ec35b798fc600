"""`fxdevice::transfer`, the operator that moves a value to another device.

An operator of its own (not the user's `.to`) makes transfers easy to find, to schedule and to
check. It keeps size, strides and dtype exactly: no node after a transfer sees a difference, every
view that was legal stays legal, and what the tracer recorded of strides stays true. `Tensor.to`
keeps strides only where the elements are dense.

The price is memory: a slice out of wide rows arrives with the gaps between its rows (the gaps are
allocated, not sent). A *packed* transfer leaves them out: its strides are in the same order, so
every view stays legal, but they are others. Elements that share memory (an expanded tensor) are
sent once.

A transfer between devices whose direct copies are damaged is *via host* (`fxdevice.staging`).
"""

from __future__ import annotations

import contextlib

import torch
from torch import fx

from fxdevice.sizes import is_non_overlapping, packed_strides, span_elements

__all__ = [
    "is_transfer",
    "transfer_destination",
    "transfer_fake",
    "transfer_is_packed",
    "transfer_is_via_host",
    "transfer_node",
    "transfer_source",
    "transfer_tensor",
]


def transfer_tensor(
    value: torch.Tensor,
    destination: torch.device,
    non_blocking: bool = False,
    *,
    is_packed: bool = False,
    via_host: bool = False,
) -> torch.Tensor:
    """Returns a copy of `value` on `destination`; it never shares memory with `value`.

    Args:
        value: Any tensor. A strided one keeps its strides; its storage offset becomes 0.
        destination: Where to.
        non_blocking: Whether the call may return before the bytes have arrived, as in `Tensor.to`.
        is_packed: Leave out gaps between the elements.
        via_host: Stage it (see `fxdevice.staging`): the call returns when the bytes are in the
            host's memory and the way on from there is issued.
    """
    if via_host:
        value = transfer_tensor(value, torch.device("cpu"), is_packed=is_packed)
        non_blocking = False
    if value.layout != torch.strided or value.is_conj() or value.is_neg():
        return value.to(destination, non_blocking=non_blocking, copy=True)
    if is_non_overlapping(value):
        strides = packed_strides(value.shape, value.stride()) if is_packed else value.stride()
        moved = torch.empty_strided(value.shape, strides, dtype=value.dtype, device=destination)
        return moved.copy_(value, non_blocking=non_blocking)
    # copy_ refuses to write where elements share memory: send the memory that they span.
    num_elements = span_elements(tuple(value.shape), value.stride())
    flat = value.as_strided((num_elements,), (1,))
    memory = flat.to(destination, non_blocking=non_blocking, copy=True)
    return memory.as_strided(value.shape, value.stride())


@torch.library.custom_op("fxdevice::transfer", mutates_args=())
def _transfer(
    value: torch.Tensor,
    destination: torch.device,
    is_packed: bool = False,
    via_host: bool = False,
) -> torch.Tensor:
    return transfer_tensor(value, destination, is_packed=is_packed, via_host=via_host)


@_transfer.register_fake
def _transfer_fake(
    value: torch.Tensor,
    destination: torch.device,
    is_packed: bool = False,
    via_host: bool = False,
) -> torch.Tensor:
    return _empty_copy(value, destination, is_packed)


def transfer_node(
    graph: fx.Graph,
    source: fx.Node,
    destination: torch.device,
    name: str,
    *,
    is_packed: bool = False,
    via_host: bool = False,
) -> fx.Node:
    """Adds a transfer of `source` at the graph's insertion point.

    The new node carries its own fake value. Like every fake value of the graph it is on the device
    that the graph was traced for, not on `destination`.

    Args:
        graph: Graph that owns `source`.
        source: Node with a tensor value.
        destination: Where to.
        name: Name of the new node, by custom "<source>_to<slot>".
        is_packed: Leave out gaps between the elements.
        via_host: Stage it.
    """
    flags = (is_packed, True) if via_host else (True,) if is_packed else ()
    args = (source, destination, *flags)
    node = graph.create_node("call_function", torch.ops.fxdevice.transfer.default, args, {}, name)
    node.meta["val"] = transfer_fake(node, source.meta["val"])
    for key in ("stack_trace", "nn_module_stack"):
        if key in source.meta:
            node.meta[key] = source.meta[key]
    return node


def transfer_fake(node: fx.Node, value: torch.Tensor) -> torch.Tensor:
    """Returns the fake value of a transfer when its source is `value`, on the device of `value`."""
    mode = getattr(value, "fake_mode", None) or contextlib.nullcontext()
    with mode:
        return _empty_copy(value, value.device, transfer_is_packed(node))


def is_transfer(node: fx.Node) -> bool:
    """Returns whether `node` is a transfer."""
    return node.op == "call_function" and node.target is torch.ops.fxdevice.transfer.default


def transfer_source(node: fx.Node) -> fx.Node:
    """Returns the node whose value the transfer `node` moves."""
    source = node.args[0]
    assert is_transfer(node)
    assert isinstance(source, fx.Node)
    return source


def transfer_destination(node: fx.Node) -> torch.device:
    """Returns the device that the transfer `node` moves its value to."""
    destination = node.args[1]
    assert is_transfer(node)
    assert isinstance(destination, torch.device)
    return destination


def transfer_is_packed(node: fx.Node) -> bool:
    """Returns whether the transfer `node` leaves out gaps between elements."""
    return len(node.args) > 2 and node.args[2] is True


def transfer_is_via_host(node: fx.Node) -> bool:
    """Returns whether the transfer `node` goes through the host's memory."""
    return len(node.args) > 3 and node.args[3] is True


def _empty_copy(value: torch.Tensor, device: torch.device, is_packed: bool) -> torch.Tensor:
    """Returns an uninitialised tensor like the result of a transfer of `value` to `device`."""
    if value.layout != torch.strided or value.is_conj() or value.is_neg():
        return value.to(device, copy=True)
    packs = is_packed and is_non_overlapping(value)
    strides = packed_strides(value.shape, value.stride()) if packs else value.stride()
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=device)
