"""How complete the simulated device is, by PyTorch's own samples of all its operators."""

from __future__ import annotations

import fnmatch
import functools
import warnings
from typing import Any

import pytest
import torch

from tests.sim.op_samples import full_name, num_compared

NUM_CHUNKS = 6
NUM_SAMPLES = 2

EXCLUDED = {
    "sparse.sampled_addmm": "sparse layouts",
    "sparse.mm.reduce": "sparse layouts",
    "to_sparse": "sparse layouts",
    "jiterator_*": "compiles CUDA code",
    "torch.ops.aten._flash_attention_forward": "a CUDA kernel, no dtype on the CPU",
    "torch.ops.aten._efficient_attention_forward": "a CUDA kernel, no dtype on the CPU",
    "nn.functional.batch_norm.without_cudnn": "a CUDA variant, no dtype on the CPU",
    "broadcast_shapes": "works on sizes, not on tensors",
    "empty": "uninitialised memory",
    "empty_like": "uninitialised memory",
    "empty_permuted": "uninitialised memory",
    "empty_strided": "uninitialised memory",
    "new_empty": "uninitialised memory",
    "new_empty_strided": "uninitialised memory",
}

if torch.__version__ < "2.12":
    EXCLUDED["torch._scaled_mm_v2"] = "no sample that the CPU of this version takes"


@functools.cache
def operators() -> tuple[Any, ...]:
    """PyTorch's operators with samples; imported here, because it takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return tuple(op_db)


def is_excluded(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in EXCLUDED)


# The samples use what PyTorch deprecates, and resize results on purpose.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chunk", range(NUM_CHUNKS))
def test_operators_equal_the_cpus(chunk: int) -> None:
    failures = {}
    for op in operators()[chunk::NUM_CHUNKS]:
        name = full_name(op)
        if is_excluded(name):
            continue
        try:
            assert num_compared(op, NUM_SAMPLES) > 0, "nothing was compared"
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    assert failures == {}


def test_few_operators_are_excluded() -> None:
    names = [full_name(op) for op in operators()]
    tested = [name for name in names if not is_excluded(name)]
    assert len(tested) >= 0.97 * len(names)
