"""The inner compiler of `debug=True`: node by node, synchronously, every argument checked.

A kernel that fails on an accelerator is reported at some later operation. Here the device is
synchronized after every node, as CUDA_LAUNCH_BLOCKING=1 would do, and whatever is raised says which
node it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fxdevice.errors import DebugError
from fxdevice.runtime.inner import InnerCompiler, run_eagerly, views_to_reshapes
from fxdevice.runtime.program import CompiledPartition
from fxdevice.source_line import source_line

__all__ = ["DebugCompiler"]


class DebugCompiler(InnerCompiler):
    """Runs partitions node by node.

    Args:
        checks_numbers: Whether a node whose result is the first with NaN or infinity is an error.
    """

    def __init__(self, *, checks_numbers: bool) -> None:
        super().__init__("debug", run_eagerly, needs_fakes=False)
        self._checks_numbers = checks_numbers

    def __call__(
        self, module: fx.GraphModule, fakes: Sequence[Any], device: torch.device
    ) -> CompiledPartition:
        """Returns a callable that interprets the partition."""
        views_to_reshapes(module)
        checks_numbers = self._checks_numbers

        def run(args: list[Any]) -> Sequence[Any]:
            given = list(args)
            args.clear()
            outputs: Sequence[Any] = _Checked(module, device, checks_numbers).run(*given)
            return outputs

        return run


class _Checked(fx.Interpreter):
    """Interprets one partition."""

    def __init__(self, module: fx.GraphModule, device: torch.device, checks_numbers: bool) -> None:
        super().__init__(module)
        self._device = device
        self._checks_numbers = checks_numbers
        self.extra_traceback = False  # the notes say more

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node between its checks."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        tensors = _tensors((args, kwargs))
        for tensor in tensors:
            if tensor.device != self._device and not (tensor.dim() == 0 and tensor.is_cpu):
                raise DebugError(
                    f"expected every argument on {self._device}, found one on {tensor.device}\n"
                    f"{self._described(n, tensors)}"
                )
        try:
            result = super().run_node(n)
            _synchronize(self._device)
        except Exception as error:
            error.add_note(self._described(n, tensors))
            raise
        if self._checks_numbers and _all_finite(tensors) and not _all_finite(_tensors(result)):
            raise DebugError(
                "expected finite numbers, found NaN or infinity in a result whose arguments have "
                f"none\n{self._described(n, tensors)}"
            )
        return result

    def _described(self, node: fx.Node, tensors: Sequence[torch.Tensor]) -> str:
        shapes = ", ".join(
            f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)} on {t.device}" for t in tensors
        )
        line = source_line(node) or "unknown"
        return (
            f"  node: {node.name} = {node.target}\n  device: {self._device}\n"
            f"  source: {line}\n  arguments: {shapes or 'none'}"
        )


def _tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    fx.node.map_aggregate(
        value, lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None
    )
    return found


def _all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    floating = [t for t in tensors if t.is_floating_point() or t.is_complex()]
    return all(bool(torch.isfinite(t).all()) for t in floating)


def _synchronize(device: torch.device) -> None:
    if device.type == "cpu":
        return
    synchronize: Callable[[torch.device], None] = torch.get_device_module(device).synchronize
    synchronize(device)
