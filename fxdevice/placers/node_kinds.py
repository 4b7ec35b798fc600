"""Kinds of nodes: operations repeat from layer to layer, so that few of them are different."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fxdevice.placement import PlacementProblem

__all__ = ["node_kinds"]


def node_kinds(problem: PlacementProblem) -> Sequence[int]:
    """Returns the number of the kind of every node, in Dag order.

    Nodes of one kind can be divided along the same labels in the same shares. Whole or in pieces,
    they take the same time on a slot and read and make the same bytes.

    Complexity: linear in the number of edges.
    """
    return problem.derived(_node_kinds)


def _node_kinds(problem: PlacementProblem) -> Sequence[int]:
    by_name, seconds_of = problem.dag.by_name, problem.costs.seconds_of
    kinds: dict[Hashable, int] = {}
    found: list[int] = []
    for node in problem.dag:
        dims = node.dims
        work = (node.flops, node.traffic_bytes, node.dtype, node.work_kind, node.num_launches)
        made = (node.output_bytes, node.shape, node.is_internal)
        reads = [by_name[name] for name in node.inputs]
        sizes = tuple([(read.output_bytes, read.shape) for read in reads])
        times = (seconds_of[node.name], node.time_factors)
        kind: Hashable = (work, made, sizes, times)
        if dims is not None:
            labels = tuple([dims.inputs.get(name) for name in node.inputs])
            units = tuple(dims.units.items())
            can_be_partial = bool(dims.partial)
            kind = (kind, labels, dims.outputs, dims.sums, dims.means, units, can_be_partial)
        found.append(kinds.setdefault(kind, len(kinds)))
    return found
