"""What a call and a compilation on one device cost beside plain `torch.compile`.

    .venv/bin/python -m benchmarks.overhead [--rounds 3000] [--compilations 3] [--out FILE]

The model of the calls is so small that nearly all of a call is overhead. Calls of all kinds
alternate, and the figures are quartiles of microseconds; other work on the machine changes the
processor time little, and the number of functions that Python calls not at all. Compilations run
one by one, each in a process of its own with empty caches of inductor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

import fxdevice
from benchmarks.facts import write_figures

DEVICES = {"one slot": ["cpu"], "two slots, single": ["cpu", "cpu"]}
NUM_STAGES = 4


def small_model() -> nn.Module:
    """Returns a model of two products of 8 x 8, with its parameters always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())


def encoder() -> tuple[nn.Module, Tensor]:
    """Returns a transformer encoder of 2 layers and its input `[batch, length, features]`."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(2, 16, 64)


def perceptron() -> tuple[nn.Module, Tensor]:
    """Returns a perceptron of 12 layers and its input `[batch, features]`."""
    layers = [layer for _ in range(12) for layer in (nn.Linear(32, 32), nn.GELU())]
    return nn.Sequential(*layers), torch.randn(4, 32)


def convolutions() -> tuple[nn.Module, Tensor]:
    """Returns 6 convolutions, normalized over the batch, and their input `[batch, 8, 16, 16]`."""
    layers = [
        layer
        for _ in range(6)
        for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    ]
    return nn.Sequential(*layers), torch.randn(2, 8, 16, 16)


COMPILED = {"encoder": encoder, "perceptron": perceptron, "convolutions": convolutions}


def calls(is_training: bool) -> dict[str, Callable[[], object]]:
    """Returns what is compared, by name: each call of one runs the model."""
    x = torch.randn(2, 8)
    models = {"torch.compile": torch.compile(small_model())}
    for name, devices in DEVICES.items():
        models[name] = fxdevice.compile(small_model(), devices, strategy="single")
    staged = nn.Sequential(*(small_model() for _ in range(NUM_STAGES)))
    models["stages: torch.compile"] = torch.compile(staged)
    for num_slots in (1, NUM_STAGES):
        models[f"stages: on {num_slots} slots"] = fxdevice.compile(
            nn.Sequential(*(small_model() for _ in range(NUM_STAGES))),
            ["cpu"] * num_slots,
            strategy="pipeline" if num_slots > 1 else "single",
        )

    def train(model: Any) -> Callable[[], object]:
        return lambda: model(x).sum().backward()

    def infer(model: Any) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                model(x)

        return run

    return {name: (train if is_training else infer)(model) for name, model in models.items()}


def num_functions(run: Callable[[], object]) -> dict[str, int]:
    """Returns how many functions of Python and of C the calling thread calls in one run."""
    counts = {"call": 0, "c_call": 0}

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event in counts:
            counts[event] += 1

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return {"python": counts["call"], "c": counts["c_call"]}


def measure_calls(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Returns quartiles and processor time in microseconds, and counts, of alternating runs."""
    wall_s: dict[str, list[float]] = {name: [] for name in runs}
    processor_s: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(10):
        for run in runs.values():
            run()
    for _ in range(rounds):
        for name, run in runs.items():
            start_s, start_processor_s = time.perf_counter(), time.thread_time()
            run()
            processor_s[name].append(time.thread_time() - start_processor_s)
            wall_s[name].append(time.perf_counter() - start_s)
    return {
        name: {
            "quartiles_us": [q * 1e6 for q in statistics.quantiles(wall_s[name], n=4)],
            "processor_us": statistics.median(processor_s[name]) * 1e6,
            "functions": num_functions(run),
        }
        for name, run in runs.items()
    }


def compile_once(model_name: str, kind: str) -> dict[str, float]:
    """Compiles a model for training in this process, and returns what that took, in seconds.

    The processor time is that of this process and of the C++ compilers that it starts.
    """
    torch._inductor.config.compile_threads = 1
    # What every process does once: imports, precompiled headers, tables of patterns.
    warm = torch.compile(nn.Linear(3, 3))
    warm(torch.randn(2, 3)).sum().backward()
    fxdevice.compile(nn.Linear(3, 3), ["cpu"])(torch.randn(2, 3)).sum().backward()
    torch.manual_seed(0)
    model, x = COMPILED[model_name]()
    compiled: Any = (
        torch.compile(model)
        if kind == "torch.compile"
        else fxdevice.compile(model, DEVICES[kind], strategy="single")
    )
    start_s, start_processor_s = time.perf_counter(), _processor_s()
    compiled(x).sum().backward()
    return {
        "wall_s": time.perf_counter() - start_s,
        "processor_s": _processor_s() - start_processor_s,
    }


def _processor_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure_compilations(compilations: int) -> dict[str, Any]:
    """Returns medians in seconds by model and kind, each compilation in a process of its own."""
    kinds = ["torch.compile", *DEVICES]
    found: dict[str, Any] = {}
    for model_name in COMPILED:
        samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(compilations):
            for kind in kinds:
                samples[kind].append(_in_new_process(model_name, kind))
        found[model_name] = {
            kind: {key: statistics.median(s[key] for s in each) for key in each[0]}
            for kind, each in samples.items()
        }
    return found


def _in_new_process(model_name: str, kind: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.overhead", "--compile", model_name, kind],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3000, help="calls of each kind")
    parser.add_argument("--compilations", type=int, default=3, help="of each kind and model")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compile", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile is not None:
        print(json.dumps(compile_once(*options.compile)))
        return
    figures: dict[str, Any] = {}
    for label in ("inference", "training"):
        figures[label] = measure_calls(calls(label == "training"), options.rounds)
        print(f"{label}: microseconds a call [quartiles], of the processor; functions called")
        for name, found in figures[label].items():
            quartiles = ", ".join(f"{q:.1f}" for q in found["quartiles_us"])
            functions = found["functions"]
            print(
                f"  {name}: [{quartiles}], {found['processor_us']:.1f}; "
                f"{functions['python']} of Python, {functions['c']} of C"
            )
    if options.compilations:
        figures["compilation"] = measure_compilations(options.compilations)
        print("compilation for training: seconds, of the processor")
        for model_name, kinds in figures["compilation"].items():
            plain = kinds["torch.compile"]
            for kind, found in kinds.items():
                print(
                    f"  {model_name}, {kind}: {found['wall_s']:.2f}, {found['processor_s']:.2f} "
                    f"({found['processor_s'] / plain['processor_s']:.2f} times torch.compile's)"
                )
    if options.out is not None:
        write_figures(options.out, figures, rounds=options.rounds)


if __name__ == "__main__":
    main()
