"""What `fxdevice.check` costs beside the eager run: a Llama of 8 layers, on the CPU.

    .venv/bin/python -m benchmarks.check_overhead [--rounds 15] [--out FILE]

Runs of both kinds alternate; the figure is the median of the ratios of neighbours, with the
smallest and largest. Needs transformers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import fxdevice
from benchmarks.facts import write_figures

SHAPES = {"prefill 4 x 256 tokens": (4, 256), "one short prompt of 8 tokens": (1, 8)}


def model_of_realistic_size() -> torch.nn.Module:
    """Returns a random Llama with 36 million parameters, in evaluation mode."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        vocab_size=8000,
    )
    model: torch.nn.Module = LlamaForCausalLM(config)
    return model.train(False)


def seconds(run: Callable[[], object]) -> float:
    """Returns how long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(model: torch.nn.Module, tokens: torch.Tensor, rounds: int) -> dict[str, float]:
    """Returns medians in seconds and the ratio with its spread."""
    eager, checked = [], []
    model(tokens)
    assert fxdevice.check(model, tokens).ok
    for _ in range(rounds):
        eager.append(seconds(lambda: model(tokens)))
        checked.append(seconds(lambda: fxdevice.check(model, tokens)))
    ratios = [b / a for a, b in zip(eager, checked, strict=True)]
    return {
        "eager_s": statistics.median(eager),
        "checked_s": statistics.median(checked),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> None:
    """Measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = model_of_realistic_size()
    figures = {}
    with torch.no_grad():
        for name, shape in SHAPES.items():
            found = measure(model, torch.randint(0, 8000, shape), options.rounds)
            figures[name] = found
            print(
                f"{name}: eager {found['eager_s'] * 1e3:.1f} ms, checked "
                f"{found['checked_s'] * 1e3:.1f} ms, ratio {found['ratio']:.2f} "
                f"({found['ratio_min']:.2f} to {found['ratio_max']:.2f})"
            )
    if options.out is not None:
        write_figures(options.out, figures, rounds=options.rounds)


if __name__ == "__main__":
    main()
