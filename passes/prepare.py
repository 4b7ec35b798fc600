"""Rewrites a normalized graph so that a strategy that divides nodes can divide more of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import fx

from fxdevice.dag import Dag
from fxdevice.passes.estimate_costs import GraphInput, estimate_costs
from fxdevice.passes.repeatable import dims_or_repeatable
from fxdevice.passes.separate_bias import separate_bias
from fxdevice.passes.separate_draws import separate_draws
from fxdevice.passes.separate_means import separate_means
from fxdevice.passes.sorted_rows import divide_sorted_rows
from fxdevice.placers import divides
from fxdevice.together import keep_together

__all__ = ["preparation", "prepare", "strategy_graph"]

_WHOLE = ("single", "branch")
"""Strategies that divide no node: their graphs stay as they are."""


def preparation(strategy: str) -> str:
    """Returns the first strategy with the same `strategy_graph`: one graph serves all of them."""
    if strategy in _WHOLE:
        return _WHOLE[0]
    return strategy if strategy == "tensor" else "data"


def prepare(graph: fx.Graph, strategy: str) -> fx.Graph:
    """Returns the graph that a strategy places; the one given stays as it is.

    Args:
        graph: A normalized graph.
        strategy: Name of the strategy.
    """
    if strategy in _WHOLE:
        return graph
    graph = separate_means(separate_draws(graph))
    return separate_bias(graph) if strategy == "tensor" else divide_sorted_rows(graph)


def strategy_graph(
    graph: fx.Graph,
    strategy: str,
    inputs: Mapping[str, GraphInput],
    module_name: Callable[[str], str],
    inner: str,
    together: Collection[str] = (),
) -> tuple[fx.Graph, Dag]:
    """Returns the graph that a strategy places, and its Dag.

    Planning and compiling both come here: a plan fits what is compiled only if these are equal.

    Args:
        graph: A normalized graph.
        strategy: Name of the strategy.
        inputs: As for `estimate_costs`; `prepare` keeps the placeholders.
        module_name: Likewise.
        inner: Name of the inner compiler.
        together: Qualified names of modules that must not be divided between slots.
    """
    prepared = prepare(graph, strategy)
    dims_of = dims_or_repeatable if divides(strategy) else None
    dag = estimate_costs(prepared, inputs, module_name, dims_of, fuses=inner == "inductor")
    return prepared, keep_together(dag, together, is_whole=strategy == "tensor")
