"""Which frames Dynamo leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxdevice.untraced import not_traced, not_traced_itself, skip_as_frame


def graphs_of(function: Callable[[Tensor], Tensor], x: Tensor) -> list[list[str]]:
    """Returns the names of the operations in each graph that Dynamo captures."""
    found: list[list[str]] = []

    def backend(module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        nodes = [n for n in module.graph.nodes if n.op in ("call_function", "call_method")]
        found.append([getattr(n.target, "__name__", str(n.target)) for n in nodes])
        return module

    expected = function(x)
    assert torch.equal(torch.compile(function, backend=backend)(x), expected)
    return found


def inner(x: Tensor) -> Tensor:
    return x.cos()


def test_not_traced_keeps_dynamo_out_of_all_below() -> None:
    @not_traced
    def middle(x: Tensor) -> Tensor:
        return inner(x.tan())

    assert graphs_of(lambda x: middle(x.sin()).exp(), torch.ones(2)) == [["sin"], ["exp"]]


def test_not_traced_itself_lets_dynamo_into_what_it_calls() -> None:
    @not_traced_itself
    def middle(x: Tensor) -> Tensor:
        return inner(x.tan())

    found = graphs_of(lambda x: middle(x.sin()).exp(), torch.ones(2))
    assert found == [["sin"], ["cos"], ["exp"]]


def test_a_skipped_frame_is_not_compiled_but_inlined() -> None:
    def middle(x: Tensor) -> Tensor:
        return inner(x.tan())

    skip_as_frame(middle)
    assert graphs_of(middle, torch.ones(2)) == [["cos"]]
    assert graphs_of(lambda x: middle(x.sin()), torch.ones(2)) == [["sin", "tan", "cos"]]
