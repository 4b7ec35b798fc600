"""The results of a run as plain data, and the ratios between them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Environment", "Ratio", "Results", "Row", "results_from_json", "results_to_json"]


@dataclass(frozen=True)
class Environment:
    """What the figures were measured on.

    Attributes:
        date: ISO date.
        machine: Processor and accelerators in words.
        num_cores: Cores that the process may use.
        torch: Version of PyTorch.
        python: Version of Python.
        devices: Device of every slot.
        inner: Inner compiler, also of the compiled baselines.
        turns: Turns of every runner.
        load: Processes that wanted to run on the machine when the run began, over a minute.
        calibrated: Whether the devices were calibrated first, which decides what `auto` chooses.
    """

    date: str
    machine: str
    num_cores: int
    torch: str
    python: str
    devices: tuple[str, ...]
    inner: str
    turns: int
    load: float
    calibrated: bool


@dataclass(frozen=True)
class Row:
    """One model under one runner.

    Attributes:
        model: Name of the model.
        runner: Name of the runner.
        batch: Rows of the batch.
        training: Whether a call goes back too.
        compute_bound: As in `BenchmarkModel`.
        seconds: Median seconds of a call, one entry a turn; empty where it was refused.
        processor_s: Median processor seconds of a call in all threads, one entry a turn; empty
            where another process works too.
        compile_s: Seconds of the first call.
        memory_bytes: Peak memory, see `Ready`.
        moved_bytes: Bytes transferred in a call.
        note: What else there is to say.
        refusal: Why there are no figures; empty where there are.
    """

    model: str
    runner: str
    batch: int
    training: bool
    compute_bound: bool
    seconds: tuple[float, ...] = ()
    processor_s: tuple[float, ...] = ()
    compile_s: float | None = None
    memory_bytes: int | None = None
    moved_bytes: int | None = None
    note: str = ""
    refusal: str = ""

    @property
    def latency_s(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """First and third quartile of the seconds of a call."""
        return _quartiles(self.seconds)

    @property
    def rows_per_s(self) -> float:
        """Throughput: rows of the batch in a second."""
        return self.batch / self.latency_s


@dataclass(frozen=True)
class Ratio:
    """How many times one number is another, with its spread over the turns.

    Attributes:
        median: Median of the ratios of the turns.
        low: First quartile.
        high: Third quartile.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Results:
    """All rows of a run."""

    environment: Environment
    rows: tuple[Row, ...]

    def row(self, model: str, runner: str) -> Row | None:
        """Returns the row of a model under a runner, or None where it was not asked for."""
        return next((r for r in self.rows if (r.model, r.runner) == (model, runner)), None)

    def models(self, *, training: bool | None = None) -> tuple[str, ...]:
        """Returns the names of the models in order; of training or inference only, if asked."""
        names = {r.model: None for r in self.rows if training in (None, r.training)}
        return tuple(names)

    def refusal(self, model: str, runner: str) -> str:
        """Returns why there are no figures; empty where there are."""
        row = self.row(model, runner)
        return "not run" if row is None else row.refusal

    def time_ratio(self, model: str, runner: str, baseline: str) -> Ratio:
        """Returns how many times as long the baseline takes: over 1, the runner is faster.

        Turn by turn, so that what slows the machine down for a while slows both down.
        """
        ours, theirs = self.row(model, runner), self.row(model, baseline)
        assert ours is not None
        assert theirs is not None
        ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
        return Ratio(statistics.median(ratios), *_quartiles(ratios))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def results_to_json(results: Results) -> dict[str, Any]:
    """Returns the results for `json.dumps`."""
    return asdict(results)


def results_from_json(found: dict[str, Any]) -> Results:
    """Returns what `results_to_json` wrote."""
    environment = dict(found["environment"], devices=tuple(found["environment"]["devices"]))
    rows = (
        Row(**dict(row, seconds=tuple(row["seconds"]), processor_s=tuple(row["processor_s"])))
        for row in found["rows"]
    )
    return Results(Environment(**environment), tuple(rows))
