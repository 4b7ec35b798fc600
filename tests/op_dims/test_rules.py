"""Every rule: the labels that it gives, and that the pieces make the whole."""

from __future__ import annotations

import pytest

from fxdevice.op_dims import op_dims
from fxdevice.op_dims.dispatch import NAMED, RULES
from tests.op_dims import cases, cases_of_layers
from tests.op_dims.cases import ENDS
from tests.op_dims.proof import call_node, notation, prove
from tests.op_dims.values import IMAGE, Case, prims, real

WINDOW = ([2, 2], [0, 0], [1, 1])
"""Stride, padding and dilation."""

CASES = (
    *cases.POINTWISE,
    *cases.PRODUCTS,
    *cases.VIEWS,
    *cases.REARRANGE,
    *cases.REDUCTIONS,
    *cases_of_layers.NORMS,
    *cases_of_layers.CONVOLUTIONS,
    *cases_of_layers.SPATIAL,
    *cases_of_layers.ATTENTION,
    *cases_of_layers.INDEXING,
    *cases_of_layers.LOSSES,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}")
def test_pieces_make_the_whole(case: Case) -> None:
    target, args, kwargs, expected = case
    node = call_node(target, args, kwargs)
    assert notation(op_dims(node)) == expected
    values = {read: read.meta["val"] for read in node.all_input_nodes}
    assert (prove(node, values, node.meta["val"]) > 0) == (expected != "")


def named_cases() -> list[Case]:
    """Return cases of operators that inductor and transformers add when they are imported."""
    import torch._inductor.inductor_prims
    import transformers.integrations.moe  # noqa: F401

    theirs = torch.ops.transformers
    rows, grads, matrices = real(12, 4), real(12, 6), real(3, 4, 6)
    pool = prims._low_memory_max_pool_with_offsets.default(IMAGE, [2, 2], *WINDOW, False)
    return [
        (theirs.grouped_mm_fallback.default, (rows, matrices, ENDS), {}, ".a,.ab,.->.b"),
        (
            theirs.grouped_mm_fallback_backward.default,
            (rows, matrices, ENDS, grads),
            {},
            ".a,.ab,.,.b->.a,.ab",
        ),
        (
            prims._low_memory_max_pool_with_offsets.default,
            (IMAGE, [2, 2], *WINDOW, False),
            {},
            "ab..->ab..,ab..",
        ),
        (
            prims._low_memory_max_pool_offsets_to_indices.default,
            (pool[1], [2, 2], [8, 8], *WINDOW),
            {},
            "ab..->ab..",
        ),
    ]


def test_operators_of_other_libraries() -> None:
    cases = named_cases()
    for case in cases:
        test_pieces_make_the_whole(case)
    assert {case[0]._schema.name for case in cases} == NAMED.keys()


# Kernels of one library, whose results on a CPU would be those of a stand-in alone.
UNTRIED = {"aten.cudnn_batch_norm", "aten.cudnn_batch_norm_backward", "prims.device_put"}


def test_every_rule_has_a_case() -> None:
    tried = {case[0] for case in CASES} | {case[0].overloadpacket for case in CASES}
    assert {str(target) for target in RULES if target not in tried} == UNTRIED
