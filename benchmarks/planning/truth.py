"""How near are predicted times to measured ones, on the CPU slots of this machine?

    .venv/bin/python -m benchmarks.planning.truth [--inner eager] [--models encoder vit] [--write]

Measures what the processor reaches (`fxdevice.calibrate`), then compiles a model under each
strategy for two CPU slots, and compares the time of a call with the simulator's. Calls of the
strategies alternate; the figure is their median. The processor is measured anew before, between and
after the calls of each model, since a shared machine does not keep its speed for the length of a
run. Nothing else should run meanwhile. `--cpu-time` takes processor seconds of one thread instead,
for a machine that is busy.

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
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.planning.truth_models import TRUTH_MODELS
from benchmarks.planning.truth_rows import Row, measured_rows
from fxdevice.calibrate import measure_topology
from fxdevice.calibrate.meter import Meter
from fxdevice.topology import Topology
from fxdevice.topology_json import topology_to_json

__all__ = ["main", "median_error", "rank_correlation"]

_ROOT = Path(__file__).resolve().parents[2]
_RESULTS = _ROOT / "benchmarks" / "results" / "planner_truth.json"
_PAGE = _ROOT / "docs" / "planner_truth.md"
_INNER = ("eager", "inductor")


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
    slots = _calibrated(clock, [])
    tables = {}
    rates: dict[tuple[str, str], list[float]] = {}
    for inner in options.inner:
        print(f"\ninner={inner!r}\n{_HEAD}")
        rows: list[Row] = []
        for model in TRUTH_MODELS:
            if model.name not in options.models:
                continue
            start_s = time.perf_counter()
            kept = rates.setdefault((inner, model.name), [])
            found = measured_rows(
                model,
                slots,
                partial(_calibrated, clock, kept),
                inner,
                rounds=options.rounds,
                clock=clock,
                refused=_say,
            )
            for row in found:
                print(_line(row), flush=True)
            print(f"({model.name}: {time.perf_counter() - start_s:.0f} s)", file=sys.stderr)
            rows += found
        tables[inner] = rows
        print(_summary(rows))
    if options.write:
        _write(tables, slots, rates, options)


def _calibrated(clock: Callable[[], float], kept: list[float]) -> Topology:
    """Measures the processor, keeps its rate and returns two slots that have its figures."""
    (slot,) = measure_topology([torch.device("cpu")], Meter(clock=clock)).slots
    kept.append(slot.spec.flops_per_s["float32"])
    return Topology((slot, replace(slot, index=1)), None)


def _write(
    tables: Mapping[str, Sequence[Row]],
    slots: Topology,
    rates: Mapping[tuple[str, str], Sequence[float]],
    options: argparse.Namespace,
) -> None:
    """Writes the tables, each with what it was measured on; those of other compilers stay."""
    found = json.loads(_RESULTS.read_text(encoding="utf-8")) if _RESULTS.exists() else {}
    for inner, rows in tables.items():
        found[inner] = {
            "date": date.today().isoformat(),
            "machine": _machine(),
            "threads": torch.get_num_threads(),
            "clock": "processor time" if options.cpu_time else "wall time",
            "torch": torch.__version__,
            "rounds": options.rounds,
            "first_calibration": json.loads(topology_to_json(slots)),
            "float32_flops_per_s": {
                model: around for (of, model), around in rates.items() if of == inner
            },
            "rows": [asdict(row) for row in rows],
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
        "Two CPU slots that share one queue. `micro_batches`, `data`, `tensor` and `branch` are "
        "placed as if the slots ran at once, and predicted and measured as they run, one after the "
        "other. Medians of calls in turn. The processor is calibrated before, between and after "
        "the calls of each model, and the median of the three predictions counts.",
        "",
    ]
    for inner, facts in found.items():
        rows = [Row(**row) for row in facts["rows"]]
        lines += [
            f"## inner={inner!r}",
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
