"""A report as text; the same text for the same report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from fxdevice.choose import Choice
from fxdevice.costs import CostTable, format_bytes, format_seconds
from fxdevice.dag import Dag
from fxdevice.dump import dump
from fxdevice.placed_graph import PlacedGraph, node_info
from fxdevice.plans.text import way_of_slots, why_not
from fxdevice.report.partitions import seconds
from fxdevice.transfer_op import is_transfer

if TYPE_CHECKING:
    from fxdevice.report.facts import GraphFacts, Report
    from fxdevice.report.partitions import PartitionFacts

__all__ = ["full", "rows", "summary"]

_KEPT = "kept between calls"


def summary(report: Report) -> str:
    """Returns the report without the rows of the nodes."""
    return "\n".join([*_head(report), *(_graph(graph) for graph in report.graphs)])


def full(report: Report) -> str:
    """Returns the report with a row for every node."""
    parts = [*_head(report)]
    for graph in report.graphs:
        parts += [_graph(graph), "", graph.rows, ""]
    return "\n".join(parts)


def rows(
    placed: PlacedGraph,
    names: Mapping[str, str],
    dag: Dag,
    costs: CostTable,
    kept: Collection[str] = (),
) -> str:
    """Returns one row a node: slot, value, operation, cost, why it is there, source line.

    Args:
        placed: The placed graph.
        names: Names of state and inputs, by placeholder.
        dag: What the placer saw.
        costs: Seconds by node and slot.
        kept: Names of transfers whose copies are kept between calls.
    """
    notes = {}
    for node in placed.graph.nodes:
        info = node_info(node)
        if info is None:
            continue
        note = [names[node.name]] if node.name in names else []
        known = dag.by_name.get(node.name)
        if node.op == "call_function" and known is not None and not is_transfer(node):
            predicted_s = seconds(costs, node.name, info.slot)
            note += [f"{predicted_s * 1e6:.1f} us, {known.flops:,} FLOPs"]
        if info.reason:
            note.append(info.reason)
        if node.name in kept:
            note.append(_KEPT)
        notes[node.name] = "; ".join(note)
    return dump(placed, notes)


def _head(report: Report) -> list[str]:
    lines = [
        f"{report.name} on {len(report.devices)} slots: {', '.join(report.devices)}",
        f"strategy {report.strategy}, inner compiler {report.inner}",
    ]
    if report.via_host:
        named = ", ".join(f"{source} -> {end}" for source, end in report.via_host)
        lines.append(f"through the host's memory, for direct copies are damaged there: {named}")
    if not report.graphs and not report.breaks:
        lines.append("nothing captured yet: call the model once")
    total = report.num_graph_operations + report.num_eager_operations
    if report.num_eager_operations:
        share = report.num_eager_operations / total
        lines.append(
            f"outside of graphs: {report.num_eager_operations} operations so far ({share:.1%} of "
            f"{total}), {report.num_alignments} arguments transferred for them"
        )
    for found in report.breaks:
        what = "runs uncaptured" if found.is_whole_graph else "ends at a graph break"
        graph = "code that is not captured" if found.index is None else f"graph {found.index}"
        lines.append(f"{graph} {what}: {found.reason}")
    if report.uncaptured:
        lines.append(f"run outside of graphs: {_few(report.uncaptured)}")
    if report.unplaced:
        lines.append(f"not placed, because nothing has used it yet: {_few(report.unplaced)}")
    lines += [f"repaired: {repair}" for repair in report.repairs]
    return lines


def _few(names: Sequence[str], num_shown: int = 8) -> str:
    more = f" and {len(names) - num_shown} more" if len(names) > num_shown else ""
    return ", ".join(names[:num_shown]) + more


def _graph(graph: GraphFacts) -> str:
    moved = sum(transfer.num_bytes for transfer in graph.transfers)
    kept_bytes = sum(found.num_bytes for found in graph.transfers if found.is_resident)
    way = way_of_slots(in_turns=False) if graph.at_once else ""
    lines = [f"graph {graph.index}, {graph.label}{way}:"]
    if graph.choice is not None and graph.label != "backward":  # one choice for both
        lines += _choice(graph.choice)
    for slot in graph.slots:
        kept = f", kept copies {format_bytes(slot.kept_bytes)}" if slot.kept_bytes else ""
        lines.append(
            f"  slot {slot.index} {slot.device}: {slot.num_operations} operations in "
            f"{slot.num_partitions} partitions, predicted {slot.predicted_s * 1e6:.1f} us, "
            f"state {format_bytes(slot.state_bytes)}{kept}"
        )
    lines += [_partition(found) for found in graph.partitions if found.measured_s is not None]
    of_them = f", of them {kept_bytes:,} {_KEPT}" if kept_bytes else ""
    lines.append(f"  transfers: {len(graph.transfers)}, {moved:,} bytes{of_them}")
    for transfer in graph.transfers:
        kept = ", via host" if transfer.via_host else ""
        kept += f", {_KEPT}" if transfer.is_resident else ""
        lines.append(
            f"    {transfer.value} {transfer.source} -> {transfer.destination}, "
            f"{transfer.num_bytes:,} bytes{kept}  # {transfer.origin}"
        )
    return "\n".join(lines)


def _partition(found: PartitionFacts) -> str:
    return (
        f"  {found.name} on slot {found.slot}: predicted {format_seconds(found.predicted_s)}, "
        f"measured {format_seconds(found.measured_s or 0.0)}"
    )


def _choice(choice: Choice) -> list[str]:
    has_ways = choice.in_turns is not None
    way = way_of_slots(bool(choice.in_turns)) if has_ways else ""
    lines = [
        f"  auto chose {choice.strategy}{way}: {format_seconds(choice.makespan_s)} predicted",
    ]
    for tried in choice.tried:
        if tried.strategy == choice.strategy:
            continue
        way = way_of_slots(tried.in_turns) if has_ways and tried.makespan_s is not None else ""
        reason = why_not(
            tried.strategy + way, tried.makespan_s, tried.refusal, fastest_s=choice.makespan_s
        )
        lines.append(f"    {reason}")
    if choice.takes_turns:
        lines.append("    not tried: any other, for these slots run one operation at a time")
    return lines
