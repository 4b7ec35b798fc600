"""Are the planner's placements better than those of its peers, and how far from the best are they?

    .venv/bin/python -m benchmarks.planning.quality [--models NAME ...] [--devices 2 4 8] [--jobs 2]
        [--exact-seconds 3] [--write]

Every model is placed on three machines of every size (`quality_rows`); `--write` writes all figures
to benchmarks/results/planning_quality.json and a page made of them to docs/planner_quality.md.

Rows are independent, and are kept in build/planning/rows as they are made: a run that was stopped
goes on where it was. A row is made again when any source of fxdevice or of this benchmark has
changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

import fxdevice
from benchmarks.planning.captured import captured
from benchmarks.planning.models import MODELS, model_named
from benchmarks.planning.quality_rows import Bounds, Job, Row, machines, row
from benchmarks.planning.quality_table import line, page, summary

__all__ = ["main", "rows"]

_ROOT = Path(__file__).resolve().parents[2]
_KEPT = _ROOT / "build" / "planning" / "rows"
_JSON = _ROOT / "benchmarks" / "results" / "planning_quality.json"
_PAGE = _ROOT / "docs" / "planner_quality.md"


def rows(jobs: Sequence[Job], num_processes: int) -> Iterator[Row]:
    """Yields the rows of all jobs as they are finished, those that are kept first.

    Args:
        jobs: What is to be done, in this order.
        num_processes: How many processes work.
    """
    key = _source_key()
    missing = []
    for job in jobs:
        path = _path(job, key)
        if path.exists():
            yield _row_of(json.loads(path.read_text()))
        else:
            missing.append(job)
    if not missing:
        return
    # A new interpreter for each process: a fork would inherit the threads of torch.
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _quiet) as pool:
        names = dict.fromkeys(job.model for job in missing)
        size_of = dict(zip(names, pool.map(_num_nodes, names), strict=True))
        missing.sort(key=lambda job: (size_of[job.model], job.model))
        for future in as_completed([pool.submit(_made, job, key) for job in missing]):
            yield future.result()


def _quiet() -> None:
    warnings.simplefilter("ignore")  # of the libraries: downloads, faster kernels


def _num_nodes(name: str) -> int:
    """Captures a model unless that was done; returns its size."""
    return captured(model_named(name)).num_nodes


def _made(job: Job, key: str) -> Row:
    """Makes a row and keeps it."""
    found = row(job)
    path = _path(job, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(found)))
    partial.rename(path)
    return found


def _path(job: Job, key: str) -> Path:
    name = f"{job.model}-{job.num_devices}x{job.machine.replace(' ', '_')}-{job.exact_s:g}s.json"
    return _KEPT / key / name


def _row_of(content: dict[str, object]) -> Row:
    """Returns the row that `asdict` took apart."""
    parts = {"job": Job(**content["job"]), "bounds": Bounds(**content["bounds"])}  # type: ignore[arg-type]
    return Row(**{**content, **parts})  # type: ignore[arg-type]


def _source_key() -> str:
    """Returns a text that changes with the sources of fxdevice and of the benchmark."""
    digest = hashlib.sha256()
    for folder in (
        *fxdevice.__path__,
        str(Path(*fxdevice.__path__, "passes")),
        str(Path(__file__).parent),
    ):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _jobs(models: Sequence[str], device_counts: Sequence[int], exact_s: float) -> list[Job]:
    return [
        Job(model, machine, num_devices, exact_s)
        for model in models
        for num_devices in device_counts
        for machine in machines(num_devices)
    ]


def main() -> None:
    """Prints a line a row and a summary, and writes both if that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [model.name for model in MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--devices", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--exact-seconds", type=float, default=3.0, help="0: no exact bound")
    parser.add_argument("--write", action="store_true", help="write to benchmarks/results and docs")
    options = parser.parse_args()
    jobs = _jobs(options.models, options.devices, options.exact_seconds)
    found = {}
    with tqdm(total=len(jobs), unit="row", smoothing=0) as progress:
        for one in rows(jobs, options.jobs):
            found[one.job] = one
            progress.write(line(one))
            progress.update()
    in_order = [found[job] for job in jobs]
    print(summary(in_order))
    if options.write:
        _write(in_order)


def _write(found: Sequence[Row]) -> None:
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, no accelerator: all times but plan_s are simulated",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    content = {**environment, "rows": [asdict(one) for one in found]}
    _JSON.write_text(json.dumps(content, indent=1) + "\n")
    _PAGE.write_text(page(found, environment))


if __name__ == "__main__":
    main()
