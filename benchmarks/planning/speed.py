"""How long does planning take, and how does that grow with the graph?

    .venv/bin/python -m benchmarks.planning.speed [--nodes 1000 10000 100000] [--devices 4]

Decoders of more and more layers are placed by every strategy and judged. Prints processor seconds,
medians of some runs, and the exponent b of seconds = a * nodes ** b.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import replace

from fxdevice.choose import try_strategies
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import OpDims
from fxdevice.placement import PlacementProblem
from fxdevice.placers import strategy_names
from fxdevice.topologies import uniform

__all__ = ["decoder", "main"]

_BATCH, _WIDTH = 64, 1024
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


def _seconds(dag: Dag, strategy: str, num_devices: int) -> float:
    """Returns processor seconds to place and judge, the median of some runs."""
    topology = uniform(f"{num_devices}xH100-80GB", "nvlink4")
    found = []
    for _ in range(_NUM_RUNS):
        # A new Dag each time: it keeps what was computed from its nodes.
        fresh = Dag(dag.nodes)
        start_s = time.process_time()
        problem = PlacementProblem(fresh, topology, estimate_costs(fresh, topology))
        try_strategies(problem, (strategy,))
        found.append(time.process_time() - start_s)
    return statistics.median(found)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--devices", type=int, default=4)
    options = parser.parse_args()
    dags = [decoder(num_nodes) for num_nodes in options.nodes]
    print("strategy".ljust(16) + "".join(f"{len(dag):>12,}" for dag in dags) + "  exponent")
    totals = [0.0] * len(dags)
    for strategy in strategy_names():
        seconds = [_seconds(dag, strategy, options.devices) for dag in dags]
        totals = [total + more for total, more in zip(totals, seconds, strict=True)]
        print(_line(strategy, dags, seconds), flush=True)
    print(_line("all", dags, totals))


def _line(name: str, dags: list[Dag], seconds: list[float]) -> str:
    line = name.ljust(16) + "".join(f"{s:>11.2f}s" for s in seconds)
    if len(dags) > 1:
        growth = math.log(seconds[-1] / seconds[0]) / math.log(len(dags[-1]) / len(dags[0]))
        line += f"{growth:>10.2f}"
    return line


if __name__ == "__main__":
    main()
