"""The quality benchmark as a page: a summary, and one line a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.planning.quality_rows import PEERS, Row
from fxdevice.placers import strategy_names

__all__ = ["line", "page", "summary"]

_HEADS = {
    "single_device": "single device",
    "round_robin": "round robin",
    "even_layers": "even layers",
    "accelerate_auto": "Accelerate",
    "m_topo": "m-TOPO",
    "m_etf": "m-ETF",
    "m_sct": "m-SCT",
    "heft": "HEFT",
    "size_partitioner": "fx size",
    "cost_aware_partitioner": "fx cost-aware",
    "kl_partitioner": "fx KL",
}

_TEXT = """\
# Quality of the planner's placements

Written by `python -m benchmarks.planning.quality --write`; the figures are in
`benchmarks/results/planning_quality.json`. {date}, PyTorch {torch}, Python {python}.

Captured graphs of {num_models} models are placed on three machines of {counts} devices, by the
planner's strategies and by its peers, and all placements are judged by one simulator with one
memory model. Nothing ran on accelerators: times are predictions. They say which placement is better
under one cost model, not how fast a model is.

- *planner*: the strategy that the planner chooses, and its makespan.
- Peers: their makespan as a multiple of the planner's. Above 1 the planner is faster; `-` means
  that the peer found no placement that fits, an empty cell that it was left out because it takes
  minutes on a graph of more than 2,000 nodes. *Accelerate* is `infer_auto_device_map`, *fx* are
  the modes of `torch.fx.experimental.accelerator_partitioner`; m-TOPO, m-ETF, m-SCT (Baechi) and
  HEFT are written anew from their papers. All peers keep operations whole: none divides a batch or
  a weight.
- *whole*: the shortest makespan of a strategy that keeps operations whole, which is what the peers
  do too.
- *gap, whole*: how far that is above a bound that holds for every placement of whole operations in
  every order: the longest path with the transfers that it cannot avoid; the work divided by all
  devices; and what CP-SAT proves in {exact_s:g} seconds of the spans that follow one another.
- *gap, any*: how far the planner's choice is above a bound that holds for all placements, divided
  or not: the work at the speed of all devices together, as if nothing had to be transferred and
  nothing had to wait.

A bound may be out of reach: a gap says how much could be gained at most. Of a model with several
graphs only the one with most work counts.
"""


def page(rows: Sequence[Row], environment: Mapping[str, str]) -> str:
    """Returns the whole page as Markdown.

    Args:
        rows: In the order in which they are to be printed.
        environment: Date, and versions of torch and Python.
    """
    counts = sorted({row.job.num_devices for row in rows})
    text = _TEXT.format(
        **environment,
        num_models=len({row.job.model for row in rows}),
        counts=_listed(counts),
        exact_s=max((row.job.exact_s for row in rows), default=0.0),
    )
    return f"{text}\n## Summary\n\n{summary(rows)}\n## Rows\n\n{_table(rows)}"


def summary(rows: Sequence[Row]) -> str:
    """Returns what the rows come to, as Markdown."""
    placed = [row for row in rows if row.best is not None]
    worse = [row for row in rows if row.is_worse]
    num_without = len(rows) - len(placed)
    lines = [
        f"- {len(rows)} rows; {num_without} where no strategy has a placement that fits.",
        f"- A peer is faster than the planner in {len(worse)}"
        + "".join(f"; {_name(row)}: {_worse(row)}" for row in worse)
        + ".",
    ]
    lines += _chosen(placed)
    lines += _gaps(placed)
    lines += [
        "",
        "| peer | rows with a placement | faster than the planner | times the planner's, "
        "geometric mean | least | most |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_peer_line(peer, placed) for peer in PEERS]
    return "\n".join(lines) + "\n"


def _chosen(rows: Sequence[Row]) -> list[str]:
    names = [row.best[1] for row in rows if row.best is not None]
    counts = [f"`{name}` {names.count(name)}" for name in strategy_names() if name in names]
    return [f"- Chosen: {', '.join(counts)}."] if counts else []


def _gaps(rows: Sequence[Row]) -> list[str]:
    found = []
    for name, of in (("whole", _gap_whole), ("any", _gap_any)):
        gaps = sorted(gap for row in rows if (gap := of(row)) is not None)
        if gaps:
            within = sum(gap <= 0.02 for gap in gaps)
            median = gaps[len(gaps) // 2]
            found.append(
                f"- Gap, {name}: median {median:.1%}, largest {gaps[-1]:.1%}, at most 2% in "
                f"{within} of {len(gaps)} rows."
            )
    return found


def _peer_line(peer: str, rows: Sequence[Row]) -> str:
    ratios = [ratio for row in rows if (ratio := _ratio(row, peer)) is not None]
    if not ratios:
        return f"| {_HEADS[peer]} | 0 | | | | |"
    mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
    faster = sum(ratio < 1 - 1e-9 for ratio in ratios)
    return (
        f"| {_HEADS[peer]} | {len(ratios)} | {faster} | {mean:.2f} | {min(ratios):.2f} | "
        f"{max(ratios):.2f} |"
    )


def _table(rows: Sequence[Row]) -> str:
    heads = [
        *("model", "machine", "devices", "nodes", "planner", "ms"),
        *(_HEADS[peer] for peer in PEERS),
        *("whole ms", "gap, whole", "gap, any"),
    ]
    lines = [_cells(heads), "|" + "---|" * len(heads)]
    for row in rows:
        best = row.best
        strategy, makespan = ("-", "-") if best is None else (best[1], _ms(best[0]))
        lines.append(
            _cells(
                [
                    *(row.job.model, row.job.machine, str(row.job.num_devices)),
                    *(f"{row.num_nodes:,}", strategy, makespan),
                    *(_peer_cell(row, peer) for peer in PEERS),
                    *(_ms(row.whole_s), _percent(_gap_whole(row)), _percent(_gap_any(row))),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def line(row: Row) -> str:
    """Returns a row in short, for a terminal."""
    best, peer = row.best, row.best_peer
    return (
        f"{_name(row):36} planner {_named(best)} best peer {_named(peer)} "
        f"gaps: whole {_percent(_gap_whole(row))} any {_percent(_gap_any(row))}"
        f"{'  SLOWER' if row.is_worse else ''}"
    )


def _named(found: tuple[float, str] | None) -> str:
    return f"{'-':>32}" if found is None else f"{_ms(found[0]):>9} {found[1]:22}"


def _name(row: Row) -> str:
    return f"{row.job.model}, {row.job.num_devices}x{row.job.machine}"


def _worse(row: Row) -> str:
    best, peer = row.best, row.best_peer
    assert peer is not None
    return f"{peer[1]} fits" if best is None else f"{peer[1]} {best[0] / peer[0] - 1:.2%}"


def _ratio(row: Row, peer: str) -> float | None:
    best, found = row.best, row.peers_s.get(peer)
    return None if best is None or found is None else found / best[0]


def _peer_cell(row: Row, peer: str) -> str:
    if peer not in row.peers_s:
        return ""
    ratio = _ratio(row, peer)
    return "-" if ratio is None else f"{ratio:.2f}" if abs(ratio - 1) >= 0.01 else f"{ratio:.3f}"


def _gap_whole(row: Row) -> float | None:
    return _gap(row.whole_s, row.bounds.whole_s)


def _gap_any(row: Row) -> float | None:
    return _gap(None if row.best is None else row.best[0], row.bounds.any_s)


def _gap(makespan_s: float | None, bound_s: float | None) -> float | None:
    """Returns by which share of the bound a makespan is above it."""
    if makespan_s is None or not bound_s:
        return None
    return makespan_s / bound_s - 1.0


def _listed(counts: Sequence[int]) -> str:
    names = [str(count) for count in counts]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.4g}"
