"""Rewrites a normalized graph so that a strategy that divides nodes can divide more of them."""

from __future__ import annotations

from torch import fx

from fxdevice.passes.separate_bias import separate_bias
from fxdevice.passes.separate_draws import separate_draws
from fxdevice.passes.separate_means import separate_means

__all__ = ["prepare"]

_WHOLE = ("single", "branch")
"""Strategies that divide no node: their graphs stay as they are."""


def prepare(graph: fx.Graph, strategy: str) -> fx.Graph:
    """Returns the graph that a strategy places; the one given stays as it is.

    Args:
        graph: A normalized graph.
        strategy: Name of the strategy.
    """
    if strategy in _WHOLE:
        return graph
    graph = separate_means(separate_draws(graph))
    return separate_bias(graph) if strategy == "tensor" else graph
