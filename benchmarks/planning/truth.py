"""How near are predicted times to measured ones, on the CPU slots of this machine?

    .venv/bin/python -m benchmarks.planning.truth [--inner eager] [--ways "at once"]
        [--models encoder vit] [--write]

Measures what the processor reaches (`fxdevice.calibrate`), then compiles a model under each
strategy for two CPU slots, and compares the time of a call with the simulator's. The slots take
turns, each with all cores, or work at once with half of the cores each. Calls of the strategies
alternate; the figure is their median. The processor is measured anew before, between and after the
calls of each model, since a shared machine does not keep its speed for the length of a run. Nothing
else should run meanwhile. `--cpu-time` takes processor seconds of one thread instead, for a machine
that is busy; slots take turns then.

`--write` keeps the figures in benchmarks/results/planner_truth.json and docs/planner_truth.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.planning.truth_models import TRUTH_MODELS
from benchmarks.planning.truth_rows import VARIANTS, VARIANTS_AT_ONCE, Row, measured_rows
from fxdevice.calibrate import measure_topology
from fxdevice.calibrate.meter import Meter
from fxdevice.topology import Topology
from fxdevice.topology_json import topology_to_json

__all__ = ["main", "median_error", "rank_correlation"]

_ROOT = Path(__file__).resolve().parents[2]
_RESULTS = _ROOT / "benchmarks" / "results" / "planner_truth.json"
_PAGE = _ROOT / "docs" / "planner_truth.md"
_INNER = ("eager", "inductor")
_WAYS = ("in turns", "at once")


def rank_correlation(rows: Sequence[Row]) -> float:
    """Returns Spearman's rank correlation of predicted and measured seconds.

    >>> row = lambda p, m: Row("model", "single", p, m, m, m)
    >>> rank_correlation([row(1, 10), row(2, 20), row(3, 400)])
    1.0
    """
    predicted = _ranks([row.predicted_s for row in rows])
    measured = _ranks([row.measured_s for row in rows])
    return statistics.correlation(predicted, measured)


def _ranks(values: Sequence[float]) -> list[float]:
    """Returns the position of each value in order; equal ones share the mean of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def median_error(rows: Sequence[Row]) -> float:
    """Returns the median of the absolute relative errors."""
    return statistics.median(abs(row.error) for row in rows)


def main() -> None:
    """Measures, prints, and writes where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [model.name for model in TRUTH_MODELS]
    parser.add_argument("--inner", nargs="+", choices=_INNER, default=list(_INNER))
    parser.add_argument("--ways", nargs="+", choices=_WAYS, default=list(_WAYS))
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds, one thread")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries
    clock = time.perf_counter
    if options.cpu_time:
        torch.set_num_threads(1)
        clock = time.process_time
        options.ways = ["in turns"]
    tables = [
        _measured(inner, way, options, clock) for inner in options.inner for way in options.ways
    ]
    if options.write:
        _write(tables, options)


@dataclass(frozen=True)
class _Table:
    """The rows of one inner compiler and one way to use the slots.

    Attributes:
        inner: Name of the compiler.
        way: One of `_WAYS`.
        slots: What was measured of the slots first.
        rates: For every model what was measured of them around its calls, as float32 FLOP/s.
        rows: The rows.
    """

    inner: str
    way: str
    slots: Topology
    rates: Mapping[str, Sequence[float]]
    rows: Sequence[Row]


def _measured(
    inner: str, way: str, options: argparse.Namespace, clock: Callable[[], float]
) -> _Table:
    print(f"\ninner={inner!r}, slots {way}\n{_HEAD}")
    slots = _calibrated(way, clock, [])
    rows: list[Row] = []
    rates: dict[str, list[float]] = {}
    for model in TRUTH_MODELS:
        if model.name not in options.models:
            continue
        start_s = time.perf_counter()
        found = measured_rows(
            model,
            slots,
            partial(_calibrated, way, clock, rates.setdefault(model.name, [])),
            inner,
            VARIANTS if way == "in turns" else VARIANTS_AT_ONCE,
            rounds=options.rounds,
            clock=clock,
            refused=_say,
        )
        for row in found:
            print(_line(row), flush=True)
        print(f"({model.name}: {time.perf_counter() - start_s:.0f} s)", file=sys.stderr)
        rows += found
    print(_summary(rows))
    return _Table(inner, way, slots, rates, rows)


def _calibrated(way: str, clock: Callable[[], float], kept: list[float]) -> Topology:
    """Measures the processor, keeps its rate and returns two slots that have its figures."""
    devices, meter = [torch.device("cpu")], Meter(clock=clock)
    if way == "in turns":
        (slot,) = measure_topology(devices, meter).slots
        topology = Topology((slot, replace(slot, index=1)), None)
    else:
        measured = measure_topology(devices * 2, meter)
        # Without `alone` there is one way to use them.
        slots = tuple(replace(slot, alone=None) for slot in measured.slots)
        topology = replace(measured, slots=slots)
    kept.append(topology.slots[0].spec.flops_per_s["float32"])
    return topology


def _write(tables: Sequence[_Table], options: argparse.Namespace) -> None:
    """Writes the tables, each with what it was measured on; others stay."""
    found = json.loads(_RESULTS.read_text(encoding="utf-8")) if _RESULTS.exists() else {}
    for table in tables:
        found[f"{table.inner}, {table.way}"] = {
            "date": date.today().isoformat(),
            "machine": _machine(),
            "threads": torch.get_num_threads(),
            "clock": "processor time" if options.cpu_time else "wall time",
            "torch": torch.__version__,
            "rounds": options.rounds,
            "first_calibration": json.loads(topology_to_json(table.slots)),
            "float32_flops_per_s": dict(table.rates),
            "rows": [asdict(row) for row in table.rows],
        }
    _RESULTS.parent.mkdir(parents=True, exist_ok=True)
    _RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _PAGE.write_text(_page(found), encoding="utf-8")


_HEAD = (
    "model".ljust(18) + "variant".ljust(15) + "predicted ms  measured ms        quartiles   error"
)


def _line(row: Row) -> str:
    quartiles = f"{row.low_s * 1e3:.1f} to {row.high_s * 1e3:.1f}"
    return (
        f"{row.model:18}{row.variant:15}{row.predicted_s * 1e3:13.1f}{row.measured_s * 1e3:13.1f}"
        f"{quartiles:>17}{row.error:>+8.0%}"
    )


def _summary(rows: Sequence[Row]) -> str:
    return (
        f"{len(rows)} rows: rank correlation {rank_correlation(rows):.3f}, median error "
        f"{median_error(rows):.1%}, largest {max(abs(row.error) for row in rows):.0%}"
    )


def _say(variant: str, reason: str) -> None:
    print(f"  {variant}: refused: {reason[:120]}", file=sys.stderr)


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else ())
        if line.startswith("model name")
    ]
    return f"{len(models)} x {models[0]}" if models else platform.processor()


def _page(found: Mapping[str, Any]) -> str:
    lines = [
        "# Predicted and measured times",
        "",
        "Written by `python -m benchmarks.planning.truth --write`; do not edit.",
        "",
        "Two CPU slots. *At once* each has half of the cores and they work at the same time. *In "
        "turns* they share one queue and each has all cores; `micro_batches`, `data`, `tensor` and "
        "`branch` are placed there as if the slots ran at once, and predicted and measured as they "
        "run. Medians of calls in turn. The processor is calibrated before, between and after the "
        "calls of each model, and the median of the three predictions counts.",
        "",
    ]
    for name, facts in found.items():
        rows = [Row(**row) for row in facts["rows"]]
        lines += [
            f"## {name}",
            "",
            f"{facts['machine']}, {facts['threads']} threads, torch {facts['torch']}, "
            f"{facts['date']}, {facts['clock']}, {facts['rounds']} calls.",
            "",
            _summary(rows) + ".",
            "",
            "| model | variant | predicted ms | measured ms | quartiles | error |",
            "|---|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row.model} | {row.variant} | {row.predicted_s * 1e3:.1f} "
            f"| {row.measured_s * 1e3:.1f} | {row.low_s * 1e3:.1f} to {row.high_s * 1e3:.1f} "
            f"| {row.error:+.0%} |"
            for row in rows
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
