"""Pooling, resizing and padding of images: every channel of every sample on its own."""

from __future__ import annotations

import torch

from fxdevice.op_dims.call import Call, Labels, Rule, Table, shape_of

__all__ = ["NAMED", "TABLE"]

_aten = torch.ops.aten


def _planes(num_spatial: int) -> Rule:
    """Returns the rule of what mixes the last `num_spatial` dimensions of all its tensors."""

    def rule(call: Call) -> Labels:
        tensors = call.tensors()
        num_leading = len(shape_of(tensors[0])) - num_spatial
        dims = (*range(num_leading), *(None for _ in range(num_spatial)))
        return Labels(tuple((tensor, dims) for tensor in tensors), (dims,) * len(call.results))

    return rule


def _low_memory_max_pool(call: Call) -> Labels | None:
    """Pools planes of as many dimensions as the window has; places are counted in each plane."""
    return _planes(len(call["kernel_size"]))(call)


def _im2col(call: Call) -> Labels:
    """[*, C, H, W] -> [*, C * window, positions]: channels are the major part."""
    before = (*range(len(call.shape("self")) - 2), None, None)
    after = (*range(len(call.result_shape()) - 1), None)
    return call.labels({"self": before}, (after,))


def _col2im(call: Call) -> Labels:
    before = (*range(len(call.shape("self")) - 1), None)
    after = (*range(len(call.result_shape()) - 2), None, None)
    return call.labels({"self": before}, (after,))


def _pixel_shuffle(call: Call) -> Labels:
    """[*, C * r * r, H, W] <-> [*, C, H * r, W * r]: channels are the major part."""
    dims = (*range(len(call.shape("self")) - 2), None, None)
    return call.labels({"self": dims}, (dims,))


def _grid_sampler(call: Call) -> Labels:
    """The positions to read at, [N, positions..., 2], are the same for every channel."""
    spatial = (None,) * (len(call.shape("input")) - 2)
    dims, grid = (0, 1, *spatial), (0, *spatial, None)
    return call.labels({"input": dims, "grid": grid}, (dims,))


def _grid_sampler_backward(call: Call) -> Labels:
    spatial = (None,) * (len(call.shape("input")) - 2)
    dims, grid = (0, 1, *spatial), (0, *spatial, None)
    inputs = {"grad_output": dims, "input": dims, "grid": grid}
    return call.labels(inputs, (dims, grid), sums=((), {1}))


_ON_ONE = (
    _aten._upsample_nearest_exact1d,
    _aten._upsample_nearest_exact1d_backward,
    _aten.reflection_pad1d,
    _aten.reflection_pad1d_backward,
    _aten.replication_pad1d,
    _aten.replication_pad1d_backward,
    _aten.upsample_linear1d,
    _aten.upsample_linear1d_backward,
    _aten.upsample_nearest1d,
    _aten.upsample_nearest1d_backward,
)
_ON_TWO = (
    _aten._adaptive_avg_pool2d,
    _aten._adaptive_avg_pool2d_backward,
    _aten._upsample_bicubic2d_aa,
    _aten._upsample_bicubic2d_aa_backward,
    _aten._upsample_bilinear2d_aa,
    _aten._upsample_bilinear2d_aa_backward,
    _aten._upsample_nearest_exact2d,
    _aten._upsample_nearest_exact2d_backward,
    _aten.adaptive_max_pool2d,
    _aten.adaptive_max_pool2d_backward,
    _aten.avg_pool2d,
    _aten.avg_pool2d_backward,
    _aten.max_pool2d_with_indices,
    _aten.max_pool2d_with_indices_backward,
    _aten.reflection_pad2d,
    _aten.reflection_pad2d_backward,
    _aten.replication_pad2d,
    _aten.replication_pad2d_backward,
    _aten.upsample_bicubic2d,
    _aten.upsample_bicubic2d_backward,
    _aten.upsample_bilinear2d,
    _aten.upsample_bilinear2d_backward,
    _aten.upsample_nearest2d,
    _aten.upsample_nearest2d_backward,
)
_ON_THREE = (
    _aten._adaptive_avg_pool3d,
    _aten._adaptive_avg_pool3d_backward,
    _aten._upsample_nearest_exact3d,
    _aten._upsample_nearest_exact3d_backward,
    _aten.adaptive_max_pool3d,
    _aten.adaptive_max_pool3d_backward,
    _aten.avg_pool3d,
    _aten.avg_pool3d_backward,
    _aten.max_pool3d_with_indices,
    _aten.max_pool3d_with_indices_backward,
    _aten.reflection_pad3d,
    _aten.reflection_pad3d_backward,
    _aten.replication_pad3d,
    _aten.replication_pad3d_backward,
    _aten.upsample_nearest3d,
    _aten.upsample_nearest3d_backward,
    _aten.upsample_trilinear3d,
    _aten.upsample_trilinear3d_backward,
)

TABLE: Table = {
    **dict.fromkeys(_ON_ONE, _planes(1)),
    **dict.fromkeys(_ON_TWO, _planes(2)),
    **dict.fromkeys(_ON_THREE, _planes(3)),
    _aten.col2im: _col2im,
    _aten.grid_sampler_2d: _grid_sampler,
    _aten.grid_sampler_2d_backward: _grid_sampler_backward,
    _aten.grid_sampler_3d: _grid_sampler,
    _aten.grid_sampler_3d_backward: _grid_sampler_backward,
    _aten.im2col: _im2col,
    _aten.pixel_shuffle: _pixel_shuffle,
    _aten.pixel_unshuffle: _pixel_shuffle,
}

NAMED: Table = {
    "prims::_low_memory_max_pool_offsets_to_indices": _low_memory_max_pool,
    "prims::_low_memory_max_pool_with_offsets": _low_memory_max_pool,
}
"""Rules of operators by name: these exist only once inductor is imported."""
