"""Cases of the operations of layers: operator, arguments, and the labels expected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.op_dims.proof import run
from tests.op_dims.values import (
    CLASSES,
    CUBE,
    IMAGE,
    IMAGES,
    Case,
    X,
    Y,
    aten,
    channels_last,
    mask,
    positive,
    real,
    whole_numbers,
)

LN = aten.native_layer_norm.default(CUBE, [8], real(8), real(8, seed=1), 1e-5)
RMS = aten._fused_rms_norm.default(CUBE, [8], real(8), 1e-5)
GN = aten.native_group_norm.default(IMAGE, real(6), real(6), 4, 6, 64, 2, 1e-5)
IN = aten.native_group_norm.default(IMAGE, None, None, 4, 6, 64, 6, 1e-5)
BN = (real(6), real(6, seed=1), real(6, seed=2), positive(6))
WN = aten._weight_norm_interface.default(CUBE, real(1, 1, 8), 2)

NORMS: list[Case] = [
    (
        aten.native_layer_norm.default,
        (CUBE, [8], real(8), real(8), 1e-5),
        {},
        "ab.,.,.->ab.,ab.,ab.",
    ),
    (aten.native_layer_norm.default, (CUBE, [6, 8], None, None, 1e-5), {}, "a..->a..,a..,a.."),
    (
        aten.native_layer_norm_backward.default,
        (CUBE, real(4, 6, 8, seed=1), [8], LN[1], LN[2], real(8), real(8, seed=1), [True] * 3),
        {},
        "ab.,ab.,ab.,ab.,.,.->ab.,.,.",
    ),
    (
        aten.native_layer_norm_backward.default,
        (CUBE, real(4, 6, 8, seed=1), [8], LN[1], LN[2], None, None, [True, False, False]),
        {},
        "ab.,ab.,ab.,ab.->ab.,,",
    ),
    (aten._fused_rms_norm.default, (CUBE, [8], real(8), 1e-5), {}, "ab.,.->ab.,ab."),
    (
        aten._fused_rms_norm_backward.default,
        (CUBE, real(4, 6, 8, seed=1), [8], RMS[1], real(8), [True, True]),
        {},
        "ab.,ab.,ab.,.->ab.,.",
    ),
    (
        aten.native_group_norm.default,
        (IMAGE, real(6), real(6, seed=1), 4, 6, 64, 2, 1e-5),
        {},
        "a...,.,.->a...,a.,a.",
    ),
    (
        aten.native_group_norm.default,
        (IMAGES, real(6), None, 4, 6, 64, 6, 1e-5),
        {},
        "ab..,b->ab..,ab,ab",
    ),
    (
        aten.native_group_norm_backward.default,
        (IMAGE, real(4, 6, 8, 8, seed=1), GN[1], GN[2], real(6), 4, 6, 64, 2, [True] * 3),
        {},
        "ab..,ab..,ab,ab,b->ab..,b,b",
    ),
    (
        aten.native_group_norm_backward.default,
        (IMAGE, real(4, 6, 8, 8, seed=1), IN[1], IN[2], real(6), 4, 6, 64, 6, [True, False, True]),
        {},
        "ab..,ab..,ab,ab,b->ab..,,b",
    ),
    (aten.native_batch_norm.default, (IMAGE, *BN, False, 0.1, 1e-5), {}, "abcd,b,b,b,b->abcd,.,."),
    (
        aten._native_batch_norm_legit_no_training.default,
        (IMAGES, *BN, 0.1, 1e-5),
        {},
        "abcd,b,b,b,b->abcd,.,.",
    ),
    (
        aten._native_batch_norm_legit_functional.default,
        (IMAGE, *BN, True, 0.1, 1e-5),
        {},
        ".a..,a,a,a,a->.a..,a,a,a,a",
    ),
    (
        aten._native_batch_norm_legit_functional.default,
        (X, *BN, False, 0.1, 1e-5),
        {},
        "ab,b,b,b,b->ab,.,.,~b,~b",
    ),
    (
        aten._native_batch_norm_legit.no_stats,
        (IMAGE, BN[0], BN[1], True, 0.1, 1e-5),
        {},
        ".a..,a,a->.a..,a,a",
    ),
    (
        aten._batch_norm_with_update_functional.default,
        (IMAGE, *BN, 0.1, 1e-5),
        {},
        ".a..,a,a,a,a->.a..,a,a,.,a,a",
    ),
    (aten._batch_norm_no_update.default, (X, *BN, 0.1, 1e-5), {}, "ab,b,b,b,b->ab,.,.,."),
    (
        aten.native_batch_norm_backward.default,
        (
            IMAGE,
            channels_last(4, 6, 8, 8),
            BN[0],
            BN[2],
            BN[3],
            BN[1],
            BN[3] + 1,
            True,
            1e-5,
            [True] * 3,
        ),
        {},
        ".a..,.a..,a,a,a,a,a->.a..,a,a",
    ),
    (
        aten.native_batch_norm_backward.default,
        (
            IMAGE,
            channels_last(4, 6, 8, 8),
            BN[0],
            BN[2],
            BN[3],
            None,
            None,
            False,
            1e-5,
            [True] * 3,
        ),
        {},
        "abcd,abcd,b,b,b->abcd,b,b",
    ),
    (
        aten.batch_norm_backward.default,
        (
            *(IMAGE, channels_last(4, 6, 8, 8), BN[0], BN[2], BN[3], BN[1], BN[3] + 1, True, 1e-5),
            *([True] * 3, torch.empty(0, dtype=torch.uint8)),
        ),
        {},
        ".a..,.a..,a,a,a,a,a,.->.a..,a,a",
    ),
    (aten._weight_norm_interface.default, (CUBE, real(1, 1, 8), 2), {}, "..a,..a->..a,..a"),
    (
        aten._weight_norm_interface_backward.default,
        (CUBE, real(4, 6, 8, seed=1), real(1, 1, 8), WN[1], 2),
        {},
        "..a,..a,..a,..a->..a,..a",
    ),
]


def conv(image: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> tuple[Any, ...]:
    return (image, weight, bias, [1, 1], [1, 1], [1, 1], False, [0, 0], groups)


def conv_back(
    image: Tensor, weight: Tensor, bias_sizes: list[int] | None, groups: int, flags: list[bool]
) -> tuple[Any, ...]:
    out = aten.convolution.default(*conv(image, weight, None, groups))
    return (
        *(real(*out.shape, seed=3), image, weight, bias_sizes),
        *([1, 1], [1, 1], [1, 1], False, [0, 0], groups, flags),
    )


def transposed(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(True if arg is False else arg for arg in args)


CONVOLUTIONS: list[Case] = [
    (aten.convolution.default, conv(IMAGE, real(8, 6, 3, 3), None), {}, "ab..,cb..->ac.."),
    (aten.convolution.default, conv(IMAGES, real(8, 6, 3, 3), real(8)), {}, "a...,b...,b->ab.."),
    (
        aten.convolution.default,
        conv(IMAGE, real(6, 1, 3, 3), real(6), 6),
        {},
        "ab..,b...,b->ab..",
    ),
    (aten.convolution.default, conv(IMAGE, real(12, 1, 3, 3), None, 6), {}, "ab..,b...->ab.."),
    (aten.convolution.default, conv(IMAGE, real(6, 3, 3, 3), None, 2), {}, "a...,....->a..."),
    (aten.convolution.default, conv(IMAGE, real(4, 3, 3, 3), None, 2), {}, "ab..,b...->ab.."),
    (
        aten.convolution.default,
        transposed(conv(IMAGE, real(6, 8, 3, 3), None)),
        {},
        "ab..,bc..->ac..",
    ),
    (
        aten.convolution.default,
        transposed(conv(IMAGE, real(6, 2, 3, 3), real(12), 6)),
        {},
        "ab..,b...,b->ab..",
    ),
    (
        aten.convolution.default,
        (real(4, 6, 9), real(8, 6, 3), None, [2], [1], [1], False, [0], 1),
        {},
        "ab.,cb.->ac.",
    ),
    (
        aten.convolution_backward.default,
        conv_back(IMAGE, real(8, 6, 3, 3), [8], 1, [True] * 3),
        {},
        "ab..,a...,b...->a...,b...,b",
    ),
    (
        aten.convolution_backward.default,
        conv_back(IMAGES, real(8, 6, 3, 3), None, 1, [True, True, False]),
        {},
        "ab..,ac..,bc..->ac..,bc..,",
    ),
    (
        aten.convolution_backward.default,
        conv_back(IMAGE, real(8, 6, 3, 3), [8], 1, [False, True, True]),
        {},
        "ab..,a...,b...->,b...,b",
    ),
    (
        aten.convolution_backward.default,
        conv_back(IMAGE, real(6, 1, 3, 3), [6], 6, [True] * 3),
        {},
        "ab..,ab..,b...->ab..,b...,b",
    ),
    (
        aten.convolution_backward.default,
        conv_back(IMAGE, real(6, 3, 3, 3), [6], 2, [True] * 3),
        {},
        "a...,a...,....->a...,....,.",
    ),
]

POOLED = aten.max_pool2d_with_indices.default(IMAGE, [2, 2])
ADAPTED = aten.adaptive_max_pool2d.default(IMAGE, [3, 3])
VOLUME = real(4, 6, 4, 4, 4)
POOLED3 = aten.max_pool3d_with_indices.default(VOLUME, [2, 2, 2])
LINE, LINE_OUT = real(4, 6, 8), real(4, 6, 16)
OUT3 = real(4, 6, 8, 8, 8)
GRID = real(4, 5, 5, 2).tanh()
SMALL, LARGE = real(4, 6, 4, 4), real(4, 6, 16, 16)


def resized(name: str) -> list[Case]:
    """Return the cases of a filter that enlarges images."""
    forward, backward = getattr(aten, name), getattr(aten, f"{name}_backward")
    return [
        (forward.default, (IMAGE, [16, 16], False), {}, "ab..->ab.."),
        (backward.default, (LARGE, [16, 16], [4, 6, 8, 8], False), {}, "ab..->ab.."),
    ]


def padded(kind: str) -> list[Case]:
    """Return the cases of a padding in one, two and three dimensions."""
    cases: list[Case] = []
    for small in (LINE, IMAGE, VOLUME):
        num_dims = small.dim() - 2
        labels, pad = "ab" + "." * num_dims, [1, 1] * num_dims
        name = f"{kind}_pad{num_dims}d"
        large = real(4, 6, *(size + 2 for size in small.shape[2:]))
        backward = getattr(aten, f"{name}_backward")
        cases += [
            (getattr(aten, name).default, (small, pad), {}, f"{labels}->{labels}"),
            (backward.default, (large, small, pad), {}, f"{labels},{labels}->{labels}"),
        ]
    return cases


SPATIAL: list[Case] = [
    (aten.max_pool2d_with_indices.default, (IMAGE, [2, 2]), {}, "ab..->ab..,ab.."),
    (aten.max_pool2d_with_indices.default, (CUBE, [2, 2]), {}, "a..->a..,a.."),
    (
        aten.max_pool2d_with_indices_backward.default,
        (SMALL, IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], False, POOLED[1]),
        {},
        "ab..,ab..,ab..->ab..",
    ),
    (aten.max_pool3d_with_indices.default, (VOLUME, [2, 2, 2]), {}, "ab...->ab...,ab..."),
    (
        aten.max_pool3d_with_indices_backward.default,
        (
            *(POOLED3[0], VOLUME, [2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1]),
            *(False, POOLED3[1]),
        ),
        {},
        "ab...,ab...,ab...->ab...",
    ),
    (aten.avg_pool2d.default, (IMAGES, [2, 2]), {}, "ab..->ab.."),
    (
        aten.avg_pool2d_backward.default,
        (SMALL, IMAGE, [2, 2], [2, 2], [0, 0], False, True, None),
        {},
        "ab..,ab..->ab..",
    ),
    (aten.avg_pool3d.default, (VOLUME, [2, 2, 2]), {}, "ab...->ab..."),
    (
        aten.avg_pool3d_backward.default,
        (POOLED3[0], VOLUME, [2] * 3, [2] * 3, [0] * 3, False, True, None),
        {},
        "ab...,ab...->ab...",
    ),
    (aten._adaptive_avg_pool2d.default, (IMAGE, [3, 3]), {}, "ab..->ab.."),
    (aten._adaptive_avg_pool2d_backward.default, (SMALL, IMAGE), {}, "ab..,ab..->ab.."),
    (aten._adaptive_avg_pool3d.default, (VOLUME, [2, 2, 2]), {}, "ab...->ab..."),
    (aten._adaptive_avg_pool3d_backward.default, (POOLED3[0], VOLUME), {}, "ab...,ab...->ab..."),
    (aten.adaptive_max_pool2d.default, (IMAGE, [3, 3]), {}, "ab..->ab..,ab.."),
    (
        aten.adaptive_max_pool2d_backward.default,
        (real(4, 6, 3, 3), IMAGE, ADAPTED[1]),
        {},
        "ab..,ab..,ab..->ab..",
    ),
    (aten.adaptive_max_pool3d.default, (VOLUME, [2, 2, 2]), {}, "ab...->ab...,ab..."),
    (
        aten.adaptive_max_pool3d_backward.default,
        (POOLED3[0], VOLUME, POOLED3[1]),
        {},
        "ab...,ab...,ab...->ab...",
    ),
    (aten.upsample_nearest1d.default, (LINE, [16]), {}, "ab.->ab."),
    (aten.upsample_nearest1d_backward.default, (LINE_OUT, [16], [4, 6, 8]), {}, "ab.->ab."),
    (aten._upsample_nearest_exact1d.default, (LINE, [16]), {}, "ab.->ab."),
    (aten._upsample_nearest_exact1d_backward.default, (LINE_OUT, [16], [4, 6, 8]), {}, "ab.->ab."),
    (aten.upsample_linear1d.default, (LINE, [16], True), {}, "ab.->ab."),
    (aten.upsample_linear1d_backward.default, (LINE_OUT, [16], [4, 6, 8], True), {}, "ab.->ab."),
    (aten.upsample_nearest2d.default, (IMAGES, [16, 16]), {}, "ab..->ab.."),
    (aten.upsample_nearest2d.vec, (IMAGE, None, [2.0, 2.0]), {}, "ab..->ab.."),
    (aten.upsample_nearest2d_backward.default, (LARGE, [16, 16], [4, 6, 8, 8]), {}, "ab..->ab.."),
    (aten._upsample_nearest_exact2d.default, (IMAGE, [16, 16]), {}, "ab..->ab.."),
    (
        aten._upsample_nearest_exact2d_backward.default,
        (LARGE, [16, 16], [4, 6, 8, 8]),
        {},
        "ab..->ab..",
    ),
    (aten.upsample_nearest3d.default, (VOLUME, [8, 8, 8]), {}, "ab...->ab..."),
    (
        aten.upsample_nearest3d_backward.default,
        (OUT3, [8] * 3, [4, 6, 4, 4, 4]),
        {},
        "ab...->ab...",
    ),
    (aten._upsample_nearest_exact3d.default, (VOLUME, [8, 8, 8]), {}, "ab...->ab..."),
    (
        aten._upsample_nearest_exact3d_backward.default,
        (OUT3, [8] * 3, [4, 6, 4, 4, 4]),
        {},
        "ab...->ab...",
    ),
    (aten.upsample_trilinear3d.default, (VOLUME, [8, 8, 8], False), {}, "ab...->ab..."),
    (
        aten.upsample_trilinear3d_backward.default,
        (OUT3, [8] * 3, [4, 6, 4, 4, 4], False),
        {},
        "ab...->ab...",
    ),
    *resized("upsample_bilinear2d"),
    *resized("upsample_bicubic2d"),
    *resized("_upsample_bilinear2d_aa"),
    *resized("_upsample_bicubic2d_aa"),
    *padded("reflection"),
    *padded("replication"),
    (aten.im2col.default, (IMAGE, [2, 2], [1, 1], [0, 0], [2, 2]), {}, "ab..->ab."),
    (
        aten.col2im.default,
        (real(4, 24, 16), [8, 8], [2, 2], [1, 1], [0, 0], [2, 2]),
        {},
        "ab.->ab..",
    ),
    (aten.pixel_shuffle.default, (real(4, 24, 3, 3), 2), {}, "ab..->ab.."),
    (aten.pixel_unshuffle.default, (IMAGE, 2), {}, "ab..->ab.."),
    (aten.grid_sampler_2d.default, (IMAGE, GRID, 0, 0, False), {}, "ab..,a...->ab.."),
    (
        aten.grid_sampler_2d_backward.default,
        (real(4, 6, 5, 5), IMAGE, GRID, 0, 0, False, [True, True]),
        {},
        "ab..,ab..,a...->ab..,a...",
    ),
    (
        aten.grid_sampler_3d.default,
        (VOLUME, real(4, 2, 2, 2, 3).tanh(), 0, 0, False),
        {},
        "ab...,a....->ab...",
    ),
    (
        aten.grid_sampler_3d_backward.default,
        (real(4, 6, 2, 2, 2), VOLUME, real(4, 2, 2, 2, 3).tanh(), 0, 0, False, [True, True]),
        {},
        "ab...,ab...,a....->ab...,a....",
    ),
]

QUERY, KEY, VALUE = (real(4, 6, 8, 10, seed=seed) for seed in range(3))
FEW, ONE = real(4, 2, 8, 10, seed=4), real(4, 1, 8, 10, seed=5)
ATTEND = aten._scaled_dot_product_flash_attention_for_cpu.default
ATTEND_BACK = aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def attend_back(is_causal: bool, attn_mask: Tensor | None = None) -> tuple[Any, ...]:
    out = ATTEND(QUERY, KEY, VALUE, 0.0, is_causal, attn_mask=attn_mask)
    return (real(4, 6, 8, 10, seed=9), QUERY, KEY, VALUE, *out, 0.0, is_causal)


ATTENTION: list[Case] = [
    (ATTEND, (QUERY, KEY, VALUE), {}, "abc.,ab..,ab..->abc.,abc"),
    (ATTEND, (QUERY, KEY, VALUE, 0.0, True), {"scale": 0.1}, "ab..,ab..,ab..->ab..,ab."),
    (
        ATTEND,
        (QUERY, KEY, VALUE),
        {"attn_mask": real(4, 1, 8, 8)},
        "abc.,ab..,ab..,a.c.->abc.,abc",
    ),
    (ATTEND, (QUERY, KEY, VALUE), {"attn_mask": real(8, 8)}, "abc.,ab..,ab..,c.->abc.,abc"),
    (
        ATTEND,
        (QUERY, KEY, VALUE),
        {"attn_mask": real(1, 6, 1, 8).expand(1, 6, 8, 8)},
        "abc.,ab..,ab..,.bc.->abc.,abc",
    ),
    (ATTEND, (QUERY, FEW, FEW), {}, "abc.,ab..->abc.,abc"),
    (ATTEND_BACK, attend_back(False), {}, "abc.,abc.,ab..,ab..,abc.,abc->abc.,ab..,ab.."),
    (ATTEND_BACK, attend_back(True), {}, "ab..,ab..,ab..,ab..,ab..,ab.->ab..,ab..,ab.."),
    (
        ATTEND_BACK,
        attend_back(False, MASK := real(4, 1, 8, 8)),
        {"attn_mask": MASK},
        "abc.,abc.,ab..,ab..,abc.,abc,a.c.->abc.,ab..,ab..",
    ),
]

LOCKED = (0.0, False, torch.empty(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64))
STATE = torch.tensor(0), torch.tensor(1)
BIAS, GRAD = real(4, 6, 8, 8), real(4, 6, 8, 10, seed=9)
FLASH = run(aten._scaled_dot_product_flash_attention.default, (QUERY, FEW, FEW, 0.0, False), {})
CUDNN = run(aten._scaled_dot_product_cudnn_attention.default, (QUERY, KEY, VALUE, BIAS, True), {})
EFFICIENT = run(
    aten._scaled_dot_product_efficient_attention.default, (QUERY, KEY, VALUE, BIAS, True), {}
)
ALL, NO_BIAS = [True] * 4, [True, True, True, False]
SHARED_BIAS = real(4, 1, 8, 8)

# On accelerators: by formulas, so that what the tests prove is the labels, not the kernels.
ATTENTION += [
    (
        aten._scaled_dot_product_flash_attention.default,
        (QUERY, FEW, FEW, 0.0, True),
        {},
        "ab..,ab..->ab..,ab.,,,,,.,,.",
    ),
    (
        aten._scaled_dot_product_flash_attention.default,
        (QUERY, ONE, ONE, 0.0, True),
        {},
        "ab..,a...->ab..,ab.,,,,,.,,.",
    ),
    (
        aten._scaled_dot_product_flash_attention_backward.default,
        (GRAD, QUERY, FEW, FEW, *FLASH[:2], None, None, 8, 8, *LOCKED),
        {},
        "ab..,ab..,ab..,ab..,ab.->ab..,ab..,ab..",
    ),
    (
        aten._scaled_dot_product_efficient_attention.default,
        (QUERY, KEY, VALUE, SHARED_BIAS, True),
        {},
        "ab..,ab..,ab..,a...->ab..,ab.,,",
    ),
    (
        aten._scaled_dot_product_efficient_attention.default,
        (QUERY, KEY, VALUE, None, False),
        {},
        "ab..,ab..,ab..->ab..,...,,",
    ),
    (
        aten._scaled_dot_product_efficient_attention_backward.default,
        (GRAD, QUERY, KEY, VALUE, BIAS, *EFFICIENT[:2], *STATE, 0.0, ALL, False),
        {},
        "ab..,ab..,ab..,ab..,ab..,ab..,ab.->ab..,ab..,ab..,ab..",
    ),
    (
        aten._scaled_dot_product_efficient_attention_backward.default,
        (GRAD, QUERY, KEY, VALUE, SHARED_BIAS, *EFFICIENT[:2], *STATE, 0.0, NO_BIAS, False),
        {},
        "ab..,ab..,ab..,ab..,a...,ab..,ab.->ab..,ab..,ab..,",
    ),
    (
        aten._scaled_dot_product_cudnn_attention.default,
        (QUERY, KEY, VALUE, BIAS, True),
        {},
        "ab..,ab..,ab..,ab..->ab..,ab..,,,,,,,",
    ),
    (
        aten._scaled_dot_product_cudnn_attention_backward.default,
        (GRAD, QUERY, KEY, VALUE, *CUDNN[:2], *STATE, BIAS, None, None, 8, 8, 0.0, False),
        {},
        "ab..,ab..,ab..,ab..,ab..,ab..,ab..->ab..,ab..,ab..",
    ),
    (
        aten._scaled_dot_product_fused_attention_overrideable.default,
        (QUERY, KEY, VALUE, BIAS),
        {},
        "ab..,ab..,ab..,ab..->ab..,ab..,,,,,,,",
    ),
    (
        aten._scaled_dot_product_fused_attention_overrideable_backward.default,
        (GRAD, QUERY, KEY, VALUE, BIAS, ALL, *CUDNN[:2], None, None, 8, 8, 0.0, False, *STATE),
        {},
        "ab..,ab..,ab..,ab..,ab..,ab..,ab..->ab..,ab..,ab..,ab..",
    ),
]

TABLE, IDS = real(10, 8), whole_numbers(10, 4, 6)
PLACES = whole_numbers(6, 4, 3, 8)
ROWS, COLUMNS = whole_numbers(4, 6, 10), whole_numbers(6, 10)
PADS = whole_numbers(4, 6, 1)

INDEXING: list[Case] = [
    (aten.embedding.default, (TABLE, IDS, 0), {}, ".a,bc->bca"),
    (aten.embedding_dense_backward.default, (CUBE, IDS, 10, 0, False), {}, "abc,ab->.c"),
    (aten.embedding_dense_backward.default, (CUBE, IDS, 10, -1, True), {}, "..a,..->.a"),
    (aten.gather.default, (CUBE, 1, PLACES), {}, "a.b,acb->acb"),
    (aten.gather.default, (CUBE, 1, whole_numbers(6, 4, 12, 4)), {}, "a..,ab.->ab."),
    (aten.scatter.value, (CUBE, 1, whole_numbers(6, 4, 1, 8), 2.0), {}, "a.b,a.b->a.b"),
    (aten.scatter.src, (CUBE, 1, whole_numbers(6, 4, 1, 8), CUBE), {}, "a.b,a.b->a.b"),
    (aten.scatter.src, (CUBE, 1, whole_numbers(6, 4, 1, 4), LINE), {}, "a..,a..,a..->a.."),
    (aten.scatter_add.default, (X, 1, whole_numbers(6, 4, 8), real(4, 8)), {}, "a.,a.,a.->a."),
    (
        aten.scatter_reduce.two,
        (X, 1, whole_numbers(6, 4, 8), real(4, 8), "amax"),
        {},
        "a.,a.,a.->a.",
    ),
    (aten.index_select.default, (CUBE, 1, whole_numbers(6, 8)), {}, "a.b,c->acb"),
    (aten.index_add.default, (CUBE, 1, whole_numbers(6, 3), real(4, 3, 8)), {}, "a.b,.,a.b->a.b"),
    (aten.index_copy.default, (CUBE, 1, torch.tensor([1, 4]), real(4, 2, 8)), {}, "a.b,.,a.b->a.b"),
    (aten.index.Tensor, (CUBE, [None, whole_numbers(6, 10)]), {}, "a.b,c->acb"),
    (aten.index.Tensor, (CUBE, [PADS, COLUMNS]), {}, "..a,b.,c->bca"),
    (
        aten.index.Tensor,
        (CUBE, [whole_numbers(4, 10), None, whole_numbers(8, 10)]),
        {},
        ".a.,b,b->ba",
    ),
    (aten.index.Tensor, (CUBE, [None, ROWS, ROWS]), {}, "a..,bc->abc"),
    (aten.index.Tensor, (CUBE, [mask(4)]), {}, ""),
    (aten._unsafe_index.Tensor, (CUBE, [None, None, whole_numbers(8, 6, 10)]), {}, "ab.,cd->abcd"),
    (
        aten.index_put.default,
        (CUBE, [None, whole_numbers(6, 3)], real(4, 3, 8)),
        {},
        "a.b,.,a.b->a.b",
    ),
    (aten.index_put.default, (CUBE, [None, torch.tensor([1, 4])], real(8)), {}, "a.b,.,b->a.b"),
    (
        aten.index_put.default,
        (CUBE, [whole_numbers(4, 10), None, whole_numbers(8, 10)], real(10, 6), True),
        {},
        ".a.,.,.,.a->.a.",
    ),
    (aten.index_put.default, (CUBE, [mask(4, 6)], real()), {}, ""),
    (
        aten._unsafe_index_put.default,
        (CUBE, [None, None, whole_numbers(8, 10)], real(4, 6, 10), True),
        {},
        "ab.,.,ab.->ab.",
    ),
    (aten.bucketize.Tensor, (X, real(8).sort()[0]), {}, "ab,.->ab"),
    (aten.searchsorted.Tensor, (real(8).sort()[0], X), {}, ".,ab->ab"),
    (aten.searchsorted.Tensor, (real(4, 8).sort()[0], X), {}, ""),
    (aten.isin.Tensor_Tensor, (CLASSES, whole_numbers(4, 2)), {}, "a,.->a"),
]

LOG, CLASS = real(6, 4).log_softmax(1), whole_numbers(4, 6)
LOG2D, CLASS2D = real(6, 4, 8, 8).log_softmax(1), whole_numbers(4, 6, 8, 8)
WEIGHT, TOTAL = positive(4), torch.tensor(5.0, dtype=torch.float64)
FIRST, SECOND = X.sigmoid(), Y.sigmoid()


def elementwise(name: str, *extra: float) -> list[Case]:
    """Return the cases of a loss with all reductions: none, mean, sum."""
    forward, backward = getattr(aten, name).default, getattr(aten, f"{name}_backward").default
    return [
        (forward, (FIRST, SECOND, 0, *extra), {}, "ab,ab->ab"),
        (forward, (FIRST, SECOND, 1, *extra), {}, "ab,ab->~"),
        (forward, (FIRST, SECOND, 2, *extra), {}, "ab,ab->"),
        (backward, (X, FIRST, SECOND, 0, *extra), {}, "ab,ab,ab->ab"),
        (backward, (TOTAL, FIRST, SECOND, 1, *extra), {}, ""),
        (backward, (TOTAL, FIRST, SECOND, 2, *extra), {}, ",ab,ab->ab"),
    ]


LOSSES: list[Case] = [
    (aten.nll_loss_forward.default, (LOG, CLASS, None, 0, 2), {}, "a.,a->a,"),
    (aten.nll_loss_forward.default, (LOG, CLASS, WEIGHT, 2, 2), {}, "a.,a,.->,"),
    (aten.nll_loss_forward.default, (LOG, CLASS, WEIGHT, 1, 2), {}, ""),
    (aten.nll_loss_backward.default, (TOTAL, LOG, CLASS, WEIGHT, 1, 2, TOTAL), {}, ",a.,a,.->a."),
    (aten.nll_loss_backward.default, (real(6), LOG, CLASS, None, 0, 2, TOTAL), {}, "a,a.,a,->a."),
    (aten.nll_loss2d_forward.default, (LOG2D, CLASS2D, WEIGHT, 2, 2), {}, "a.bc,abc,.->,"),
    (
        aten.nll_loss2d_backward.default,
        (TOTAL * 2, LOG2D, CLASS2D, WEIGHT, 1, 2, TOTAL),
        {},
        ",a.bc,abc,.,->a.bc",
    ),
    *elementwise("mse_loss"),
    *elementwise("smooth_l1_loss", 0.5),
    *elementwise("huber_loss", 0.5),
    *elementwise("soft_margin_loss"),
    (aten.binary_cross_entropy.default, (FIRST, SECOND, real(6), 1), {}, "ab,ab,b->~"),
    (aten.binary_cross_entropy_backward.default, (X, FIRST, SECOND, None, 0), {}, "ab,ab,ab->ab"),
]
