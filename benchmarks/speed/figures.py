"""The figures that the benchmark is for, each a function of the results with its goal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.speed.results import Ratio, Results

__all__ = ["FIGURES", "Figure", "Part", "figures"]

STRATEGIES = ("single", "data", "tensor", "pipeline", "branch", "data_pipeline")


@dataclass(frozen=True)
class Part:
    """What one model contributes to a figure.

    Attributes:
        model: Name of the model.
        ratio: The model's ratio; None where there is none.
        missing: Why there is none.
        counts_against: There is none because fxdevice's side has no figures and the other has.
        runners: The runners that are compared, fxdevice's first.
    """

    model: str
    ratio: Ratio | None
    missing: str = ""
    counts_against: bool = False
    runners: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure with its goal.

    Attributes:
        name: What is compared.
        goal: The goal in words.
        value: What was found, in words.
        is_reached: Whether the goal is reached; None where nothing was measured.
        parts: The figure of every model.
    """

    name: str
    goal: str
    value: str
    is_reached: bool | None
    parts: tuple[Part, ...]


def geometric_mean(values: Sequence[float]) -> float:
    """Returns the geometric mean of positive values.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def data_inference(results: Results) -> Figure:
    """Data strategy against naive DataParallel, in inference."""
    return _data(results, training=False, mean=2.0)


def data_training(results: Results) -> Figure:
    """Data strategy against naive DataParallel, in training."""
    return _data(results, training=True, mean=1.6)


def _data(results: Results, *, training: bool, mean: float) -> Figure:
    kind = "training" if training else "inference"
    parts = []
    for model in results.models(training=training):
        # The original where it runs, its algorithm by hand elsewhere.
        refused = results.refusal(model, "data_parallel")
        baseline = "naive_data_parallel" if refused else "data_parallel"
        parts.append(_part(results, model, "fx_data", baseline))
    return _at_least(f"data strategy against naive DataParallel, {kind}", parts, mean, 1.0)


def two_slots(results: Results) -> Figure:
    """Two slots with half of the batch each against one slot of one core."""
    bound = {row.model for row in results.rows if row.compute_bound}
    parts = [
        _part(results, model, "fx_data", "compiled_one_slot")
        for model in results.models()
        if model in bound
    ]
    return _at_least("data on all slots against one slot, compute-bound models", parts, 1.9)


def auto_against_compiled(results: Results) -> Figure:
    """`auto` against `torch.compile` with all cores."""
    parts = [
        _part(results, model, "fx_auto", _compiled(results, model)) for model in results.models()
    ]
    return _at_least("auto against torch.compile with all cores", parts, 1.1, 0.97)


def pipeline_inference(results: Results) -> Figure:
    """Pipeline with micro-batches against the same split in sequence, in inference."""
    return _pipeline(results, training=False, mean=1.6)


def pipeline_training(results: Results) -> Figure:
    """Pipeline with micro-batches against the same split in sequence, in training."""
    return _pipeline(results, training=True, mean=1.5)


def _pipeline(results: Results, *, training: bool, mean: float) -> Figure:
    kind = "training" if training else "inference"
    parts = [
        _part(results, model, "fx_pinned_pipeline", "split_by_hand")
        for model in results.models(training=training)
    ]
    return _at_least(f"pipeline against the same split in sequence, {kind}", parts, mean)


def accelerate(results: Results) -> Figure:
    """Pipeline against Accelerate at the same split."""
    parts = [
        _part(results, model, "fx_pinned_pipeline", "accelerate") for model in results.models()
    ]
    return _at_least("pipeline against Accelerate at the same split", parts, None, 1.0)


def one_device(results: Results) -> Figure:
    """One device against plain `torch.compile`: its time over theirs."""
    parts = []
    for model in results.models():
        part = _part(results, model, "fx_one", _compiled(results, model))
        if part.ratio is not None:
            found = part.ratio
            part = replace(part, ratio=Ratio(1 / found.median, 1 / found.high, 1 / found.low))
        parts.append(part)
    return _at_most("time on one device over plain torch.compile", parts, 1.03)


def compile_time(results: Results) -> Figure:
    """The first call of `auto` over that of plain `torch.compile`."""
    parts = []
    for model in results.models():
        baseline = _compiled(results, model)
        part = _part(results, model, "fx_auto", baseline)
        if part.ratio is not None:
            ratio = _first_call_s(results, model, "fx_auto") / _first_call_s(
                results, model, baseline
            )
            part = replace(part, ratio=Ratio(ratio, ratio, ratio), runners=())
        parts.append(part)
    return _at_most("first call of auto over plain torch.compile", parts, 1.15)


def _compiled(results: Results, model: str) -> str:
    """Returns the runner of plain `torch.compile`: with all cores, or on the one accelerator."""
    return "compiled_one_slot" if results.refusal(model, "compiled") else "compiled"


def _first_call_s(results: Results, model: str, runner: str) -> float:
    row = results.row(model, runner)
    assert row is not None
    assert row.compile_s is not None
    return row.compile_s


def auto_against_best(results: Results) -> Figure:
    """`auto` against the fixed strategy that is fastest by measurement."""
    parts = []
    for model in results.models():
        rows = [results.row(model, f"fx_{strategy}") for strategy in STRATEGIES]
        if None in rows:
            parts.append(Part(model, None, "not every fixed strategy was run"))
            continue
        measured = [row for row in rows if row is not None and not row.refusal]
        if not measured:
            parts.append(Part(model, None, "no fixed strategy has figures"))
            continue
        best = min(measured, key=lambda row: row.latency_s)
        parts.append(_part(results, model, "fx_auto", best.runner))
    return _at_least("auto against the best fixed strategy", parts, None, 0.95)


def _part(results: Results, model: str, runner: str, baseline: str) -> Part:
    """Returns how many times as long the baseline takes, or why that is not known."""
    ours, theirs = results.refusal(model, runner), results.refusal(model, baseline)
    if not ours and not theirs:
        ratio = results.time_ratio(model, runner, baseline)
        return Part(model, ratio, runners=(runner, baseline))
    missing = [f"{name}: {why}" for name, why in ((runner, ours), (baseline, theirs)) if why]
    # What the baseline cannot run is no merit of ours; what only we cannot run is our fault.
    against = bool(ours) and ours != "not run" and not theirs
    return Part(model, None, "; ".join(missing), against)


def _at_least(
    name: str, parts: Sequence[Part], mean: float | None, each: float | None = None
) -> Figure:
    goals, ratios = [], [part.ratio.median for part in parts if part.ratio is not None]
    if mean is not None:
        goals.append(f"geometric mean {mean:g}x or more")
    if each is not None:
        goals.append(f"no model under {each:g}x")
    if not ratios:
        failed = False if any(part.counts_against for part in parts) else None
        return Figure(name, ", ".join(goals), "no figures", failed, tuple(parts))
    found = geometric_mean(ratios)
    reached = (mean is None or found >= mean) and (each is None or min(ratios) >= each)
    return _figure(name, ", ".join(goals), f"geometric mean {found:.2f}x", reached, parts, min)


def _at_most(name: str, parts: Sequence[Part], each: float) -> Figure:
    goal = f"at most {each:g}x on every model"
    ratios = [part.ratio.median for part in parts if part.ratio is not None]
    if not ratios:
        failed = False if any(part.counts_against for part in parts) else None
        return Figure(name, goal, "no figures", failed, tuple(parts))
    mean = f"geometric mean {geometric_mean(ratios):.2f}x"
    return _figure(name, goal, mean, max(ratios) <= each, parts, max)


def _figure(
    name: str,
    goal: str,
    mean: str,
    reached: bool,
    parts: Sequence[Part],
    worst: Callable[..., tuple[float, str]],
) -> Figure:
    """Returns the figure with its worst model; a model that only we refuse is never reached."""
    value, model = worst((p.ratio.median, p.model) for p in parts if p.ratio is not None)
    refused = [part.model for part in parts if part.counts_against]
    text = f"{mean}, worst {value:.2f}x ({model})"
    text += f", of {sum(part.ratio is not None for part in parts)} models"
    if refused:
        text += f"; fxdevice has no figure for {', '.join(refused)}"
    return Figure(name, goal, text, reached and not refused, tuple(parts))


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "data_inference": data_inference,
    "data_training": data_training,
    "two_slots": two_slots,
    "auto_against_compiled": auto_against_compiled,
    "pipeline_inference": pipeline_inference,
    "pipeline_training": pipeline_training,
    "accelerate": accelerate,
    "one_device": one_device,
    "compile_time": compile_time,
    "auto_against_best": auto_against_best,
}
"""By the name that the command line takes."""

RUNNERS_OF: dict[str, tuple[str, ...]] = {
    "data_inference": ("fx_data", "naive_data_parallel", "data_parallel"),
    "data_training": ("fx_data", "naive_data_parallel", "data_parallel"),
    "two_slots": ("fx_data", "compiled_one_slot"),
    "auto_against_compiled": ("fx_auto", "compiled", "compiled_one_slot"),
    "pipeline_inference": ("fx_pinned_pipeline", "split_by_hand"),
    "pipeline_training": ("fx_pinned_pipeline", "split_by_hand"),
    "accelerate": ("fx_pinned_pipeline", "accelerate"),
    "one_device": ("fx_one", "compiled", "compiled_one_slot"),
    "compile_time": ("fx_auto", "compiled", "compiled_one_slot"),
    "auto_against_best": ("fx_auto", *(f"fx_{strategy}" for strategy in STRATEGIES)),
}
"""The runners that each figure needs."""


def figures(results: Results, names: Sequence[str]) -> list[Figure]:
    """Returns the named figures."""
    return [FIGURES[name](results) for name in names]
