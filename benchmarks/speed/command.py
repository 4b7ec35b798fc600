"""The command: `python -m benchmarks`, or `make bench`.

    .venv/bin/python -m benchmarks [--quick] [--models encoder_batch_8 vit] [--figures one_device]
        [--devices cuda:0 cuda:1] [--inner eager] [--turns 15] [--out benchmarks/results/speed]
        [--add] [--uncalibrated]

Calibrates the devices, for `auto` goes by what is known of them, then measures every model under
every runner, prints one table with the figures and their goals, and writes FILE.json and FILE.md,
in benchmarks/results when everything was measured and no name was given. With `--from FILE.json`
it measures nothing and shows what was measured then. With `--add` the models that FILE.json has
stay as they are: all of them take hours, and the run can be stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

import torch
from tqdm import tqdm

import fxdevice
from benchmarks.speed.figures import FIGURES, RUNNERS_OF, figures
from benchmarks.speed.job import Job
from benchmarks.speed.measure import measure
from benchmarks.speed.models import MODELS, QUICK_MODELS, model_named
from benchmarks.speed.page import page, table
from benchmarks.speed.results import Environment, Results, Row, results_from_json, results_to_json
from benchmarks.speed.runners import RUNNERS

__all__ = ["main"]

_QUICK_TURNS = 3
_RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes.

    Args:
        arguments: The command line, without the program's name; None means the real one.
    """
    options = _parser().parse_args(arguments)
    names = options.figures or list(FIGURES)
    out = options.out
    if options.read is not None:
        results = _read(options.read)
    else:
        devices = tuple(options.devices or _default_devices())
        is_part = options.quick or options.models or options.figures or options.runners
        if out is None and not is_part:
            out = _RESULTS / f"speed_{torch.device(devices[0]).type}"
        results = _measured(options, devices, out)
    found = figures(results, names)
    print(table(results, found))
    if out is not None:
        _write(results, out)
        out.with_suffix(".md").write_text(page(results, found), encoding="utf-8")


def _write(results: Results, out: Path) -> None:
    """Writes the results for `--from`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results_to_json(results), indent=1) + "\n"
    out.with_suffix(".json").write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="How fast are the strategies beside the baselines?"
    )
    known = [model.name for model in (*MODELS, *QUICK_MODELS)]
    parser.add_argument("--quick", action="store_true", help="tiny models, 3 turns, inner eager")
    parser.add_argument("--models", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--figures", nargs="+", choices=FIGURES, metavar="NAME", help="only these")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, metavar="NAME", help="only these")
    parser.add_argument("--devices", nargs="+", help="of the slots; two accelerators or CPU slots")
    parser.add_argument("--inner", help="compiler of partitions and of the compiled baselines")
    parser.add_argument("--cores", type=int, help="of the machine to use (all)")
    parser.add_argument("--turns", type=int, help="of every runner (15)")
    parser.add_argument("--out", type=Path, help="where to write, without an extension")
    parser.add_argument("--add", action="store_true", help="to what was written there before")
    parser.add_argument("--uncalibrated", action="store_true", help="leave out calibration")
    parser.add_argument("--from", dest="read", type=Path, help="results to show instead")
    return parser


def _measured(options: argparse.Namespace, devices: tuple[str, ...], out: Path | None) -> Results:
    """Runs what the options ask for; writes the results after every model if `out` is given."""
    models = MODELS if not options.quick else QUICK_MODELS
    if options.models:
        models = tuple(model_named(name) for name in options.models)
    runners = options.runners or list(RUNNERS)
    if options.figures and not options.runners:
        needed = {name for figure in options.figures for name in RUNNERS_OF[figure]}
        runners = [name for name in RUNNERS if name in needed]
    turns = options.turns or (_QUICK_TURNS if options.quick else 15)
    inner = options.inner or ("eager" if options.quick else "inductor")
    calibrates = not (options.quick or options.uncalibrated)
    environment = _environment(
        devices, options.cores or _num_cores(), inner, turns, calibrated=calibrates
    )
    kept = None if out is None or not options.add else out.with_suffix(".json")
    before = _read(kept) if kept is not None and kept.exists() else None
    if before is not None:
        environment = _joined(before.environment, environment)
        measured = before.models()
        models = tuple(model for model in models if model.name not in measured)
    if calibrates:
        fxdevice.calibrate(devices, refresh=before is None)

    def job(model: str, runner: str) -> Job:
        return Job(model, runner, environment.devices, environment.num_cores, inner)

    with tqdm(total=len(models) * (len(runners) + turns), smoothing=0) as bar:

        def progress(text: str) -> None:
            bar.set_postfix_str(text)
            bar.update()

        rows: list[Row] = [] if before is None else list(before.rows)
        for model in models:
            rows += measure([model], runners, job, turns=turns, progress=progress)
            if out is not None:
                _write(Results(environment, tuple(rows)), out)
    return Results(environment, tuple(rows))


def _default_devices() -> list[str]:
    """Returns the first two accelerators, two slots on the only one, or two CPU slots."""
    kind = torch.accelerator.current_accelerator()
    if kind is None:
        return ["cpu", "cpu"]
    last = min(1, torch.accelerator.device_count() - 1)
    return [f"{kind.type}:0", f"{kind.type}:{last}"]


def _read(path: Path) -> Results:
    """Returns what an earlier run wrote."""
    return results_from_json(json.loads(path.read_text(encoding="utf-8")))


def _joined(before: Environment, now: Environment) -> Environment:
    """Returns the environment of two runs together.

    Raises:
        SystemExit: They cannot be compared.
    """
    changed = [
        field.name
        for field in fields(Environment)
        if field.name not in ("date", "load")
        and getattr(before, field.name) != getattr(now, field.name)
    ]
    if changed:
        raise SystemExit(
            f"--add: what is there was measured with another {', '.join(changed)}; "
            "measure all of it again, or write elsewhere with --out"
        )
    first = before.date.partition(" to ")[0]
    dates = now.date if first == now.date else f"{first} to {now.date}"
    return replace(before, date=dates, load=max(before.load, now.load))


def _environment(
    devices: tuple[str, ...], num_cores: int, inner: str, turns: int, *, calibrated: bool
) -> Environment:
    return Environment(
        date=date.today().isoformat(),
        machine=_machine(),
        num_cores=num_cores,
        torch=torch.__version__,
        python=platform.python_version(),
        devices=devices,
        inner=inner,
        turns=turns,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        calibrated=calibrated,
    )


def _num_cores() -> int:
    """Returns the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = [models[0] if models else platform.processor()]
    if torch.cuda.is_available():
        found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(found)
