"""How long does planning take, and how does that grow with the graph?

    .venv/bin/python -m benchmarks.planning.speed [--nodes 1000 10000 100000] [--devices 2]

Decoders of more and more layers are placed by every strategy alone, and by all of them as for a
plan, and judged. Prints processor seconds, medians of some runs, and the exponent b of
seconds = a * nodes ** b. The largest one has 35 GB of weights, which a device of 80 GB can hold.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from fxdevice.collector import without_collection
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import OpDims
from fxdevice.placement import PlacementProblem
from fxdevice.placers import divides, strategy_names
from fxdevice.topologies import uniform
from fxdevice.topology import Topology
from fxdevice.trials import try_strategies

__all__ = ["decoder", "main"]

_BATCH, _WIDTH = 4096, 256
_NUM_RUNS = 3


def decoder(num_nodes: int) -> Dag:
    """Returns a chain of blocks of about `num_nodes` nodes.

    A block is a product up, an activation, a product down and a residual sum, with two weights:
    values are `[batch, width]` in float32.
    """
    nodes = [_value("x", NodeKind.INPUT, (), (_BATCH, _WIDTH), None)]
    for block in range(max(1, num_nodes // 6)):
        x = nodes[-1].name
        names = [f"{part}_{block}" for part in ("up", "act", "down", "sum")]
        up, act, down, total = names
        for weight, shape in ((f"w{up}", (_WIDTH, 4 * _WIDTH)), (f"w{down}", (4 * _WIDTH, _WIDTH))):
            nodes.append(_value(weight, NodeKind.STATE, (), shape, None))
        nodes += [
            _product(up, x, f"w{up}", 4 * _WIDTH, _WIDTH),
            _pointwise(act, (up,), 4 * _WIDTH),
            _product(down, act, f"w{down}", _WIDTH, 4 * _WIDTH),
            _pointwise(total, (x, down), _WIDTH),
        ]
    return Dag(tuple(nodes))


def _product(name: str, left: str, weight: str, width: int, inner: int) -> DagNode:
    dims = OpDims({left: (0, 1), weight: (1, 2)}, ((0, 2),), (frozenset({1}),))
    made = _value(name, NodeKind.COMPUTE, (left, weight), (_BATCH, width), dims)
    traffic_bytes = 4 * (_BATCH * (width + inner) + width * inner)
    return replace(made, flops=2 * _BATCH * width * inner, traffic_bytes=traffic_bytes)


def _pointwise(name: str, inputs: tuple[str, ...], width: int) -> DagNode:
    dims = OpDims({read: (0, 1) for read in inputs}, ((0, 1),), (frozenset(),))
    made = _value(name, NodeKind.COMPUTE, inputs, (_BATCH, width), dims)
    traffic_bytes = made.output_bytes * (len(inputs) + 1)
    return replace(made, flops=_BATCH * width, traffic_bytes=traffic_bytes)


def _value(
    name: str, kind: NodeKind, inputs: tuple[str, ...], shape: tuple[int, ...], dims: OpDims | None
) -> DagNode:
    return DagNode(name, kind, inputs, 4 * math.prod(shape), shape=shape, dims=dims)


def _problem(dag: Dag, topology: Topology) -> PlacementProblem:
    # A new Dag each time: it keeps what was computed from its nodes.
    fresh = Dag(dag.nodes)
    return PlacementProblem(fresh, topology, estimate_costs(fresh, topology))


def _seconds(dag: Dag, strategies: Sequence[str], num_devices: int) -> tuple[float, ...]:
    """Returns processor seconds to place and judge, of every run.

    Strategies that place the same graph share the problem, as in a plan.
    """
    topology = uniform(f"{num_devices}xH100-80GB", "nvlink4")
    found = []
    for _ in range(_NUM_RUNS):
        gc.collect()
        start_s = time.process_time()
        _place(dag, strategies, topology)
        found.append(time.process_time() - start_s)
    return tuple(found)


def _place(dag: Dag, strategies: Sequence[str], topology: Topology) -> None:
    problems: dict[bool, PlacementProblem] = {}
    with without_collection():
        for strategy in strategies:
            key = divides(strategy)
            if key not in problems:
                problems[key] = _problem(dag, topology)
            try_strategies(problems[key], (strategy,))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--devices", type=int, default=2)
    options = parser.parse_args()
    dags = [decoder(num_nodes) for num_nodes in options.nodes]
    print("strategy".ljust(18) + "".join(f"{len(dag):>20,}" for dag in dags) + "  exponent")
    for name, strategies in (
        *((name, (name,)) for name in strategy_names()),
        ("all, as in a plan", strategy_names()),
    ):
        runs = [_seconds(dag, strategies, options.devices) for dag in dags]
        print(_line(name, dags, runs), flush=True)


def _line(name: str, dags: list[Dag], runs: list[tuple[float, ...]]) -> str:
    seconds = [statistics.median(one) for one in runs]
    line = name.ljust(18)
    for middle_s, one in zip(seconds, runs, strict=True):
        line += f"{middle_s:.2f} s ({min(one):.2f}-{max(one):.2f})".rjust(20)
    if len(dags) > 1:
        growth = math.log(seconds[-1] / seconds[0]) / math.log(len(dags[-1]) / len(dags[0]))
        line += f"{growth:>10.2f}"
    return line


if __name__ == "__main__":
    main()
