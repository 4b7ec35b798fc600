"""Traced graphs for tests of the cost passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from functorch.compile import aot_module_simplified  # type: ignore[import-untyped]
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx


def traced(function: Callable[..., Any], *inputs: Tensor, decompositions: Any = None) -> fx.Graph:
    """Returns the ATen graph of a function, with a fake value on every node."""
    module = make_fx(function, decompositions, tracing_mode="fake")(*inputs)
    return module.graph


def node_of(graph: fx.Graph, target: Any) -> fx.Node:
    """Returns the only node with that target."""
    node: fx.Node
    (node,) = graph.find_nodes(op="call_function", target=target)
    return node


def captured(
    model: nn.Module,
    inputs: tuple[Any, ...],
    keywords: dict[str, Any],
    split: Callable[..., tuple[fx.GraphModule, fx.GraphModule]],
    forward: Callable[[fx.GraphModule, list[Any]], Any],
) -> Any:
    """Runs `model` with its forward graphs run by `forward` and its joint graphs cut by `split`."""

    def compiler(run: Callable[[fx.GraphModule, list[Any]], Any]) -> Any:
        def compile_graph(module: fx.GraphModule, _: Any) -> Any:
            def call(args: list[Any]) -> Any:
                return run(module, args)

            call._boxed_call = True  # type: ignore[attr-defined]
            return call

        return compile_graph

    def backend(module: fx.GraphModule, examples: Any) -> Any:
        return aot_module_simplified(
            module,
            examples,
            fw_compiler=compiler(forward),
            bw_compiler=compiler(lambda module, args: module(*args)),
            partition_fn=split,
        )

    return torch.compile(model, backend=backend)(*inputs, **keywords)
