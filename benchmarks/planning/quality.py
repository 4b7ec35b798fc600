"""Are the planner's placements better than those of its peers?

    .venv/bin/python -m benchmarks.planning.quality [--models NAME ...] [--devices 2 4 8]

Every placement of every model is judged by one simulator, on three machines. A row has the makespan
of the planner's choice, of each strategy, of each peer, and a lower bound that holds for every
placement that keeps operations whole. Strategies that divide operations can be below it. Writes
JSON and a Markdown table to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.planning.baselines import baselines
from benchmarks.planning.captured import BenchModel, captured
from benchmarks.planning.judge import judge
from benchmarks.planning.models import MODELS
from fxdevice.bounds import lower_bound_s
from fxdevice.choose import try_strategies
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers import strategy_names
from fxdevice.topologies import islands, uniform
from fxdevice.topology import Topology

__all__ = ["Row", "main", "rows"]

_RESULTS = Path(__file__).resolve().parents[1] / "results"
_SLOW_PEERS = ("cost_aware_partitioner", "kl_partitioner")
"""Peers that take minutes on graphs of thousands of nodes."""
_SLOW_FROM = 2_000


@dataclass(frozen=True)
class Row:
    """One model on one machine.

    Attributes:
        model: Name of the model.
        machine: Name of the topology.
        num_devices: Number of its devices.
        num_nodes: Nodes of the graph.
        bound_s: No placement of whole operations is faster than this.
        ours_s: Makespan of each strategy; None when it was refused.
        peers_s: Makespan of each peer; None when it failed or does not fit.
        plan_s: Seconds that each strategy took to place and judge.
    """

    model: str
    machine: str
    num_devices: int
    num_nodes: int
    bound_s: float
    ours_s: dict[str, float | None]
    peers_s: dict[str, float | None]
    plan_s: dict[str, float]

    @property
    def best_s(self) -> float | None:
        """Makespan of what the planner chooses; None when nothing fits."""
        return min((s for s in self.ours_s.values() if s is not None), default=None)

    @property
    def best_peer_s(self) -> float | None:
        """Makespan of the fastest peer; None when none has a placement that fits."""
        return min((s for s in self.peers_s.values() if s is not None), default=None)


def machines(num_devices: int) -> Iterator[tuple[str, Topology]]:
    """Yields three machines of `num_devices` devices, from close to far apart."""
    yield "H100 nvlink4", uniform(f"{num_devices}xH100-80GB", "nvlink4")
    yield "L40S pcie4", uniform(f"{num_devices}xL40S", "pcie4")
    half = max(1, num_devices // 2)
    yield (
        "A100 islands",
        islands(f"{num_devices}xA100-80GB", half, inside="nvlink3", between="host"),
    )


def rows(models: Sequence[BenchModel], device_counts: Sequence[int]) -> Iterator[Row]:
    """Yields the rows of all models on all machines; only a model's first graph counts."""
    for model in models:
        found = captured(model)
        for num_devices in device_counts:
            for name, topology in machines(num_devices):
                yield _row(model.name, found.variants[0], name, topology)


def _row(model: str, variants: dict[str, Dag], machine: str, topology: Topology) -> Row:
    ours_s: dict[str, float | None] = {}
    plan_s: dict[str, float] = {}
    problems = {}
    for strategy in strategy_names():
        dag = variants[strategy]
        problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
        problems[strategy] = problem
        start_s = time.process_time()
        (trial,) = try_strategies(problem, (strategy,))
        plan_s[strategy] = time.process_time() - start_s
        usable = trial.is_usable and trial.evaluation is not None
        ours_s[strategy] = trial.evaluation.makespan_s if usable and trial.evaluation else None
    whole = problems["single"]
    return Row(
        model,
        machine,
        len(topology.slots),
        len(whole.dag),
        lower_bound_s(whole),
        ours_s,
        dict(_peers(whole)),
        plan_s,
    )


def _peers(problem: PlacementProblem) -> Iterator[tuple[str, float | None]]:
    for name, place in baselines():
        if name in _SLOW_PEERS and len(problem.dag) > _SLOW_FROM:
            continue
        try:
            found = judge(problem, place(problem))
        except PlacementError:
            yield name, None
        else:
            yield name, found.makespan_s if found.fits else None


def table(found: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table; times in milliseconds."""
    ours, peers = strategy_names(), [name for name, _ in baselines()]
    heads = ["model", "machine", "devices", "bound", "planner", *ours, "best peer", *peers]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in found:
        best_peer = row.best_peer_s
        cells = [row.model, row.machine, str(row.num_devices), _ms(row.bound_s), _ms(row.best_s)]
        cells += [_ms(row.ours_s.get(name)) for name in ours]
        cells += [_ms(best_peer), *(_ms(row.peers_s.get(name)) for name in peers)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.4g}"


def main() -> None:
    """Prints the table and writes it to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [model.name for model in MODELS]
    parser.add_argument("--models", nargs="*", choices=names, default=names)
    parser.add_argument("--devices", nargs="*", type=int, default=[2, 4, 8])
    parser.add_argument("--write", action="store_true", help="write to benchmarks/results")
    options = parser.parse_args()
    found = []
    for row in rows([m for m in MODELS if m.name in options.models], options.devices):
        found.append(row)
        ratio = row.best_s / row.best_peer_s if row.best_s and row.best_peer_s else float("nan")
        print(
            f"{row.model:24}{row.machine:14}{row.num_devices:3} bound {_ms(row.bound_s):>8} "
            f"planner {_ms(row.best_s):>8} best peer {_ms(row.best_peer_s):>8} ratio {ratio:.3f} "
            f"in {sum(row.plan_s.values()):.1f} s",
            flush=True,
        )
    worse = [r for r in found if r.best_s and r.best_peer_s and r.best_s > r.best_peer_s]
    print(f"{len(found)} rows, the planner is slower than a peer in {len(worse)}")
    if options.write:
        _write(found)


def _write(found: Sequence[Row]) -> None:
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, no accelerator: all times but plan_s are simulated",
    }
    content = {"environment": environment, "rows": [asdict(row) for row in found]}
    path = _RESULTS / f"planning_quality-{environment['date']}"
    path.with_suffix(".json").write_text(json.dumps(content, indent=1))
    path.with_suffix(".md").write_text(table(found) + "\n")


if __name__ == "__main__":
    main()
