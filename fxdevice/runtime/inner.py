"""Inner compilers: what turns one single-device partition into something callable.

"eager" runs the partition's operations one by one; "inductor" generates kernels; any other Dynamo
backend, by name or as a callable, gets the partition as it would get a graph from Dynamo.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx
from torch._dynamo import list_backends, lookup_backend
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from fxdevice.errors import CompileOptionError
from fxdevice.options import InnerLike
from fxdevice.runtime.program import CompiledPartition
from fxdevice.source_line import source_line
from fxdevice.tracing import fake_mode_of, fake_on_device, unified_tracing

__all__ = ["InnerCompiler", "make_inner", "run_eagerly", "views_to_reshapes"]

log = logging.getLogger(__name__)


class InnerCompiler:
    """An inner compiler with the decompositions that it wants.

    Args:
        name: Name for reports.
        compile_partition: Compiles one partition.
        decompositions: Decompositions that AOTAutograd applies for it.
        needs_fakes: Whether it reads the fake values, so that they must be on the slot's device.
        settings: Takes a number of threads and whether to release the GIL, and returns a context in
            which `compile_partition` heeds both; None where it cannot.
        simplify: Returns a joint graph, or one of inference, after passes that see forward and
            backward together; None where there are none.
        is_stateless: Returns whether partitions on a device keep nothing between calls, so that one
            may stand for all that are equal to it, called by several threads too.
    """

    def __init__(
        self,
        name: str,
        compile_partition: Callable[[fx.GraphModule, Sequence[Any]], CompiledPartition],
        decompositions: dict[Any, Callable[..., Any]] | None = None,
        *,
        needs_fakes: bool = True,
        settings: Callable[[int | None, bool], AbstractContextManager[Any]] | None = None,
        simplify: Callable[[fx.GraphModule], fx.GraphModule] | None = None,
        is_stateless: Callable[[torch.device], bool] = lambda device: False,
    ) -> None:
        self.name = name
        self.decompositions = decompositions
        self._compile_partition = compile_partition
        self._needs_fakes = needs_fakes
        self._settings = settings
        self._simplify = simplify
        self.is_stateless = is_stateless
        self._threads: int | None = None
        self._releases_gil = False

    def at_once(self, *, threads: int | None = None, releases_gil: bool = True) -> InnerCompiler:
        """Returns this compiler for partitions that run at the same time as others.

        Only inductor heeds this. The operations that any other compiler leaves to PyTorch take the
        threads of the thread that calls them, and release the GIL while Python is not needed.

        Args:
            threads: Number of threads that a generated kernel uses; None for as many as PyTorch
                uses in the thread that compiles.
            releases_gil: Whether generated kernels run without the GIL.
        """
        changed = copy.copy(self)
        changed._threads, changed._releases_gil = threads, releases_gil
        return changed

    def simplified(self, module: fx.GraphModule) -> fx.GraphModule:
        """Returns a captured graph after the passes that see forward and backward together.

        They run before placement, since afterwards there are partitions, of one direction each.

        Args:
            module: A joint graph, or one of inference; it is not changed.
        """
        return module if self._simplify is None else self._simplify(module)

    def __call__(
        self, module: fx.GraphModule, fakes: Sequence[Any], device: torch.device
    ) -> CompiledPartition:
        """Returns the compiled partition.

        Args:
            module: The partition; its output is a tuple.
            fakes: Fake values of its inputs, on the trace device.
            device: The partition's device.
        """
        with unified_tracing(None):
            if self._needs_fakes:
                fakes = _on_device(module, fakes, device)
            with self._heeding():
                return self._compile_partition(module, fakes)

    def _heeding(self) -> AbstractContextManager[Any]:
        if self._settings is None:
            return contextlib.nullcontext()
        return self._settings(self._threads, self._releases_gil)


def make_inner(inner: InnerLike | None, device: torch.device) -> InnerCompiler:
    """Returns the inner compiler that an option means, for partitions on `device`'s type.

    Args:
        inner: "inductor", "eager", the name of another Dynamo backend, a callable with a Dynamo
            backend's signature, or None: inductor where it supports the device, else eager.
        device: A slot's device.

    Raises:
        CompileOptionError: There is no such backend, or inductor does not support the device.
    """
    if callable(inner):
        name = getattr(inner, "__name__", type(inner).__name__)
        return InnerCompiler(name, lambda module, fakes: _unboxed(inner(module, list(fakes))))
    if inner == "eager":
        return InnerCompiler("eager", run_eagerly, needs_fakes=False)
    if inner is None or inner == "inductor":
        return _inductor_or_eager(device, is_explicit=inner is not None)
    names = list_backends(exclude_tags=())
    if inner not in names:
        raise CompileOptionError(
            f"unknown inner compiler {inner!r}; expected 'inductor', 'eager', a callable or "
            f"another Dynamo backend: {names}"
        )
    if inner == "fxdevice":
        raise CompileOptionError("inner='fxdevice' would place a partition again; use 'inductor'")
    return make_inner(lookup_backend(inner), device)


def _inductor_or_eager(device: torch.device, *, is_explicit: bool) -> InnerCompiler:
    # Imported here: importing inductor takes a second or more, and not every process needs it.
    from fxdevice.runtime import inductor

    missing = inductor.missing_for(device)
    if missing is None:
        return InnerCompiler(
            "inductor",
            inductor.compile_partition,
            inductor.decompositions(),
            settings=inductor.settings,
            simplify=inductor.simplified,
            is_stateless=inductor.is_stateless,
        )
    if is_explicit:
        raise CompileOptionError(f"inner='inductor' cannot be used: {missing}. Use 'eager'")
    log.warning("%s: partitions run with inner='eager'", missing)
    return make_inner("eager", device)


def _unboxed(call: Callable[..., Any]) -> CompiledPartition:
    """Adapts a callable with positional parameters, as every Dynamo backend returns one.

    Its attribute `_boxed_call` tells nothing: AOTAutograd copies it from what it wraps
    (torch/_functorch/aot_autograd.py, `aot_module_simplified`).
    """

    def run(args: list[Any]) -> Sequence[Any]:
        outputs = call(*args)
        args.clear()
        return outputs if isinstance(outputs, (tuple, list)) else (outputs,)

    return run


def run_eagerly(module: fx.GraphModule, _: Sequence[Any]) -> CompiledPartition:
    """Runs the partition's operations one by one."""
    views_to_reshapes(module)
    forward = module.forward

    def run(args: list[Any]) -> Sequence[Any]:
        try:
            outputs: Sequence[Any] = forward(*args)
        except Exception as error:
            _note_node(error, module)
            raise
        args.clear()
        return outputs

    return run


def _note_node(error: Exception, module: fx.GraphModule) -> None:
    """Says in an error's notes at which node of the module it was raised."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code is not type(module).forward.__code__:
        place = place.tb_next
    # By line of the code that was generated for the graph.
    position = None if place is None else _line_map(module).get(place.tb_lineno)
    if position is not None:
        node = list(module.graph.nodes)[position]
        line = source_line(node) or "no source line"
        error.add_note(f"  at node {node.name} = {node.target} ({line})")


def _line_map(module: fx.GraphModule) -> dict[int, int | None]:
    first_line: int = getattr(module, "_prologue_start", 0)
    lines: dict[int, int | None] = getattr(module, "_lineno_map", None) or {}
    return {line + first_line: position for line, position in lines.items()}


def views_to_reshapes(module: fx.GraphModule) -> None:
    """Makes a partition that runs on real strides insensitive to wrong traced ones.

    A view of a value whose real strides differ from the traced ones can be impossible (the result
    of `softplus_backward` has other strides than its fake twin, in PyTorch 2.11 to 2.13), so views
    become reshapes, which copy only then.
    """
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    module.recompile()


def _on_device(module: fx.GraphModule, fakes: Sequence[Any], device: torch.device) -> Sequence[Any]:
    """Returns the inputs' fakes on `device` and gives the partition's nodes values there."""
    tensors = [fake for fake in fakes if isinstance(fake, torch.Tensor)]
    if all(fake.device == device for fake in tensors):
        return fakes
    moved = [
        fake_on_device(fake, device) if isinstance(fake, torch.Tensor) else fake for fake in fakes
    ]
    for node, fake in zip(module.graph.find_nodes(op="placeholder"), moved, strict=True):
        node.meta["val"] = fake
    FakeTensorProp(module, mode=fake_mode_of(moved, ())).propagate_dont_convert_inputs(*moved)
    output = module.graph.output_node()
    assert isinstance(output.args[0], tuple)
    output.meta["val"] = tuple(
        n.meta.get("val") if isinstance(n, fx.Node) else n for n in output.args[0]
    )
    return moved
