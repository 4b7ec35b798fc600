"""Inductor as the inner compiler of a partition.

Importing this module imports inductor, which takes a second or more. So nothing imports it at the
top of a file: `fxdevice.runtime.inner` does in a function, when a model is compiled with inductor.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._guards import TracingContext, tracing
from torch._inductor import config
from torch._inductor.codegen.common import get_scheduling_for_device, init_backend_registration
from torch._inductor.compile_fx import _recursive_joint_graph_passes, compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.virtualized import V

from fxdevice.op_kinds import is_random
from fxdevice.placed_graph import copied_graph
from fxdevice.runtime.kernel_gil import kernels_release_gil
from fxdevice.runtime.program import CompiledPartition
from fxdevice.tracing import fake_mode_of, unified_tracing

__all__ = [
    "compile_partition",
    "decompositions",
    "is_stateless",
    "missing_for",
    "settings",
    "simplified",
]

# PyTorch 2.11 finds the device by itself.
_TAKES_DEVICE = "input_device" in inspect.signature(_recursive_joint_graph_passes).parameters


def missing_for(device: torch.device) -> str | None:
    """Returns why inductor cannot compile for `device`, or None when it can."""
    init_backend_registration()
    if get_scheduling_for_device(device.type) is None:
        return f"inductor has no support for device type {device.type!r}"
    if device.type == "cpu":
        if not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
            return "inductor needs a C++ compiler for the CPU and found none"
    elif not torch.utils._triton.has_triton():
        return f"inductor needs Triton for device type {device.type!r} and found none"
    return None


def is_stateless(device: torch.device) -> bool:
    """Returns whether partitions keep nothing between calls: CUDA graphs keep their results."""
    return device.type == "cpu" or not config.triton.cudagraphs


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Returns the decompositions that AOTAutograd applies for inductor, by operator.

    Random numbers stay PyTorch's own (`fallback_random`). Inductor's depend on how a graph is cut
    into kernels, and so would a mask of dropout on where it is drawn.
    """
    with config.patch(fallback_random=True):
        return select_decomp_table()


def simplified(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a graph after inductor's passes over forward and backward together.

    `torch.compile` applies them to what AOTAutograd captured: attention that is written out becomes
    one operation, products with constants and pairs of conversions go. A result that draws other
    random numbers (attention with its dropout inside) is not taken.

    Args:
        module: A joint graph, or one of inference, with fake values; it is not changed.
    """
    found = fx.GraphModule(module, copied_graph(module.graph))
    values = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    device = next((v.device for v in values if isinstance(v, torch.Tensor)), torch.device("cpu"))
    options: dict[str, Any] = {"input_device": device} if _TAKES_DEVICE else {}
    with (
        unified_tracing(None),
        V.set_fake_mode(fake_mode_of(values, ())),
        config.patch(fallback_random=True),
    ):
        found = _recursive_joint_graph_passes(found, **options)
    if _draws(found) != _draws(module):
        return module
    _name_lines(found.graph)
    return found


def _draws(module: fx.GraphModule) -> list[Any]:
    return [node.target for node in module.graph.nodes if is_random(node)]


def _name_lines(graph: fx.Graph) -> None:
    """Gives operations that inductor wrote the line and module of what reads them."""
    for node in reversed([node for node in graph.nodes if node.op == "call_function"]):
        for key in ("stack_trace", "nn_module_stack"):
            found = next((user.meta[key] for user in node.users if key in user.meta), None)
            if key not in node.meta and found is not None:
                node.meta[key] = found


@contextlib.contextmanager
def settings(threads: int | None, releases_gil: bool) -> Iterator[None]:
    """Compiles partitions, inside, to run at once with others.

    Args:
        threads: Number of threads of a kernel on the CPU; None leaves it to the configuration.
        releases_gil: Whether kernels run without the GIL.
    """
    changes = {} if threads is None else {"cpp.threads": threads}
    kernels = kernels_release_gil() if releases_gil else contextlib.nullcontext()
    with config.patch(changes), kernels:
        yield


def compile_partition(module: fx.GraphModule, fakes: Sequence[Any]) -> CompiledPartition:
    """Returns the compiled partition.

    Args:
        module: The partition; its output is a tuple.
        fakes: Fake values of its inputs, on the partition's device.
    """
    output = module.graph.output_node()
    values = output.meta["val"]
    # The strides of what leaves a partition are written into the other partitions: keep them.
    output.meta["user_visible_output_idxs"] = list(range(len(values)))
    output.meta["original_output_strides"] = [
        value.stride() if isinstance(value, torch.Tensor) else None for value in values
    ]
    # compile_fx_inner reports output strides to the tracing context, which has room for one graph.
    context = TracingContext(fake_mode_of(fakes, values))
    with tracing(context), config.patch(fallback_random=True):
        compiled = compile_fx_inner(module, list(fakes), cpp_wrapper=config.cpp_wrapper)
    assert callable(compiled)
    return compiled
