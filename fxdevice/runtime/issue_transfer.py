"""Transfers that the host only issues: it does not wait for the bytes to arrive.

The current streams say where a transfer runs: that of the source's device at one end, that of the
destination's device at the other. PyTorch lets a copy between two accelerators come after what both
streams had to do, and both go on after it (`copy_device_to_device` in
aten/src/ATen/native/cuda/Copy.cu). Between the host's memory and a device there is one stream.

Only *pinned* memory of the host can be read and written by a device while the host goes on. What
comes from other memory is copied into pinned memory first, so it may be changed at once; results in
the host's memory are pinned. PyTorch keeps dropped pinned memory until the device is through.

What has no plain layout (sparse, conjugated, elements that share memory) is rare and is waited for.
"""

from __future__ import annotations

import torch

from fxdevice.sizes import has_gaps, is_non_overlapping, packed_strides
from fxdevice.transfer_op import transfer_tensor

__all__ = ["is_read_later", "issue_transfer"]

_CPU = torch.device("cpu")
_CHUNK_BYTES = 8 << 20
"""Long against the time of a launch: 0.5 ms at 16 GB/s. Not measured on any device yet."""


def issue_transfer(
    value: torch.Tensor,
    destination: torch.device,
    *,
    is_packed: bool,
    via_host: bool,
    sender: torch.Stream | None = None,
    receiver: torch.Stream | None = None,
) -> torch.Tensor:
    """Returns what `value` will be on `destination`, as `transfer_tensor` would lay it out.

    Args:
        value: Any tensor on another device than `destination`.
        destination: Where to.
        is_packed: Leave out gaps between the elements.
        via_host: Take the way through the host's memory.
        sender: The current stream of the source's device; needed for a staged transfer.
        receiver: The current stream of the destination's device; needed for a staged transfer.
    """
    crosses_host = value.is_cpu or destination.type == "cpu" or via_host
    if not crosses_host:
        return transfer_tensor(value, destination, non_blocking=True, is_packed=is_packed)
    if not _is_plain(value):
        return transfer_tensor(value, destination, is_packed=is_packed, via_host=via_host)
    if value.is_cpu:
        return _to_device(value, destination, is_packed)
    if via_host and destination.type != "cpu":
        assert sender is not None
        assert receiver is not None
        moved = _empty(value, _strides(value, is_packed), destination)
        return _through_host(value, moved, sender, receiver)
    if not is_packed and has_gaps(value):
        # The host would have to spread the elements, which are not there yet.
        return transfer_tensor(value, destination)
    dense = _dense(value)
    on_host = _pinned(dense).copy_(dense, non_blocking=True)
    return on_host if is_packed else on_host.as_strided(value.shape, value.stride())


def is_read_later(value: torch.Tensor) -> bool:
    """Returns whether a device reads `value` after its transfer has been issued.

    Args:
        value: What `issue_transfer` is given.
    """
    return value.is_cpu and _is_plain(value) and value.is_pinned()


def _to_device(value: torch.Tensor, device: torch.device, is_packed: bool) -> torch.Tensor:
    moved = _empty(value, _strides(value, is_packed), device)
    return moved.copy_(
        value if value.is_pinned() else _pinned(value).copy_(value), non_blocking=True
    )


def _through_host(
    value: torch.Tensor, moved: torch.Tensor, sender: torch.Stream, receiver: torch.Stream
) -> torch.Tensor:
    """Sends `value` into `moved`, in chunks: while one goes on, the next one comes in."""
    source = _dense(value)
    target = _empty(source, source.stride(), moved.device) if has_gaps(moved) else moved
    pinned = _pinned(source)
    num_elements = value.numel()
    elements = [part.as_strided((num_elements,), (1,)) for part in (source, pinned, target)]
    chunk = max(1, _CHUNK_BYTES // value.element_size())
    for start in range(0, num_elements, chunk):
        here, on_host, there = (part[start : start + chunk] for part in elements)
        on_host.copy_(here, non_blocking=True)
        receiver.wait_stream(sender)
        there.copy_(on_host, non_blocking=True)
    return moved if target is moved else moved.copy_(target)


def _dense(value: torch.Tensor) -> torch.Tensor:
    """Returns `value`, or a copy on its device where it has gaps."""
    if not has_gaps(value):
        return value
    return _empty(value, packed_strides(value.shape, value.stride()), value.device).copy_(value)


def _pinned(value: torch.Tensor) -> torch.Tensor:
    """Returns pinned memory for the elements of `value`, in the same order."""
    strides = packed_strides(value.shape, value.stride())
    return torch.empty_strided(
        value.shape, strides, dtype=value.dtype, device=_CPU, pin_memory=True
    )


def _empty(
    value: torch.Tensor, strides: tuple[int | torch.SymInt, ...], device: torch.device
) -> torch.Tensor:
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=device)


def _strides(value: torch.Tensor, is_packed: bool) -> tuple[int | torch.SymInt, ...]:
    return packed_strides(value.shape, value.stride()) if is_packed else value.stride()


def _is_plain(value: torch.Tensor) -> bool:
    return (
        value.layout == torch.strided
        and not value.is_conj()
        and not value.is_neg()
        and value.numel() > 0
        and is_non_overlapping(value)
    )
