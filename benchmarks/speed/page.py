"""The table that is printed and the Markdown page that is written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.speed.figures import Figure
from benchmarks.speed.results import Results, Row
from benchmarks.speed.runners import RUNNERS

__all__ = ["page", "table"]

_HEAD = (
    "model",
    "runner",
    "latency ms",
    "quartiles",
    "rows/s",
    "memory MB",
    "first call s",
    "moved KB",
    "note",
)


def table(results: Results, figures: Sequence[Figure]) -> str:
    """Returns rows and figures as text with aligned columns."""
    rows = [_HEAD, *(_cells(row) for row in results.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in (0, 1, len(_HEAD) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    lines += [f"{_verdict(f):12}  {f.name}: {f.value} (goal: {f.goal})" for f in figures]
    return "\n".join(lines)


def page(results: Results, figures: Sequence[Figure]) -> str:
    """Returns the page with the environment, the figures and all rows."""
    found = results.environment
    lines = [
        "# Speed",
        "",
        "Written by `python -m benchmarks`; do not edit.",
        "",
        f"{found.date}, {found.machine}, {found.num_cores} cores, torch {found.torch}, Python "
        f"{found.python}, devices {', '.join(found.devices)}, inner compiler {found.inner}, "
        f"{found.turns} turns; {found.load:.1f} processes wanted to run when it began; the devices "
        f"were {'' if found.calibrated else 'not '}calibrated.",
        "",
        "Every runner has a process of its own and they take turns in random order; a turn is one "
        "call that is not counted and as many as fill 50 ms. A ratio is the median of the ratios "
        "turn by turn, its spread the quartiles. All answers, and in training all gradients, were "
        "compared with eager PyTorch first. Memory is the most that calls took above an empty "
        "process, without that of a second process; the first call includes compilation without "
        "kept kernels.",
        "",
        "Where a goal is not reached, processor time says why. It is that of all threads in a "
        "call. What it is above the other runner's is work that was added; where it is less than "
        "latency times cores, cores were idle.",
        "",
        "## Figures",
        "",
        "| figure | goal | found | |",
        "|---|---|---|---|",
    ]
    lines += [f"| {f.name} | {f.goal} | {_cell(f.value)} | {_verdict(f)} |" for f in figures]
    for figure in figures:
        lines += ["", f"### {figure.name}", "", "| model | ratio | quartiles |", "|---|---:|---:|"]
        for part in figure.parts:
            if part.ratio is None:
                lines.append(f"| {part.model} | | {_cell(part.missing)} |")
                continue
            low, high = part.ratio.low, part.ratio.high
            lines.append(f"| {part.model} | {part.ratio.median:.2f} | {low:.2f} to {high:.2f} |")
        if figure.is_reached is False:
            lines += _profile(results, figure)
    lines += ["", "## Runners", ""]
    names = dict.fromkeys(row.runner for row in results.rows)
    lines += [f"- `{name}`: {RUNNERS[name].text}" for name in names]
    lines += ["", "## Rows", "", _markdown(_HEAD), _markdown(["---"] * len(_HEAD))]
    lines += [_markdown(_cells(row)) for row in results.rows]
    return "\n".join([*lines, ""])


def _profile(results: Results, figure: Figure) -> list[str]:
    """Returns what calls of the compared runners took of the processor, model by model."""
    lines = []
    for part in figure.parts:
        rows = [results.row(part.model, runner) for runner in part.runners]
        for row in rows:
            if row is not None and row.processor_s:
                latency_s, processor_s = row.latency_s, statistics.median(row.processor_s)
                lines.append(
                    f"| {part.model} | {row.runner} | {latency_s * 1e3:.2f} "
                    f"| {processor_s * 1e3:.2f} | {processor_s / latency_s:.2f} |"
                )
    if not lines:
        return []
    head = ("model", "runner", "latency ms", "processor ms", "cores busy")
    return ["", _markdown(head), "|---|---|---:|---:|---:|", *lines]


def _cells(row: Row) -> tuple[str, ...]:
    if row.refusal:
        return (row.model, row.runner, *["-"] * 6, f"refused: {row.refusal[:160]}")
    low_s, high_s = row.quartiles_s
    return (
        row.model,
        row.runner,
        f"{row.latency_s * 1e3:.2f}",
        f"{low_s * 1e3:.2f} to {high_s * 1e3:.2f}",
        f"{row.rows_per_s:.0f}",
        "-" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
        "-" if row.compile_s is None else f"{row.compile_s:.2f}",
        "-" if row.moved_bytes is None else f"{row.moved_bytes / 1e3:.1f}",
        row.note,
    )


def _verdict(figure: Figure) -> str:
    if figure.is_reached is None:
        return "not measured"
    return "reached" if figure.is_reached else "not reached"


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
