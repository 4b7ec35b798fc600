"""A report as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxdevice.choose import Choice
from fxdevice.dag import Dag, NodeKind
from fxdevice.driver import LoweredGraph
from fxdevice.model import CompiledFunction, CompiledModel
from fxdevice.passes.estimate_costs import num_bytes
from fxdevice.placed_graph import PlacedGraph
from fxdevice.records import CapturedGraph, Records
from fxdevice.repairs import Repair
from fxdevice.report import text
from fxdevice.report.partitions import PartitionFacts, partition_facts, seconds
from fxdevice.runtime.program import StateView, Transfer
from fxdevice.sizes import content_bytes
from fxdevice.source_line import source_line
from fxdevice.transfer_op import is_transfer, transfer_is_via_host, transfer_source

__all__ = ["BreakFacts", "GraphFacts", "Report", "SlotFacts", "TransferFacts", "make_report"]


@dataclass(frozen=True, slots=True)
class TransferFacts:
    """One transfer of one graph.

    Attributes:
        value: Name of the value.
        origin: What it is: the name of state or of an input, or the user's source line.
        source: Device that it leaves.
        destination: Device that it reaches.
        num_bytes: Its size.
        is_resident: The copy is kept between calls, and refreshed only when the original changes.
        via_host: It goes through the host's memory, because direct copies are damaged there.
    """

    value: str
    origin: str
    source: str
    destination: str
    num_bytes: int
    is_resident: bool
    via_host: bool = False


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """What one slot does in one graph.

    Attributes:
        index: Index of the slot.
        device: Its device.
        num_operations: Operations that run there.
        num_partitions: Partitions that they form.
        predicted_s: Seconds that the cost model predicts for them, transfers not counted.
        state_bytes: Bytes of the parameters and buffers that the graph reads there.
        kept_bytes: Bytes of the copies of other slots' state that are kept there between calls.
    """

    index: int
    device: str
    num_operations: int
    num_partitions: int
    predicted_s: float
    state_bytes: int
    kept_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """One placed graph.

    Attributes:
        index: Number of the captured graph that it comes from.
        label: "forward", "backward" or "inference".
        slots: What each slot does.
        transfers: Its transfers, in order.
        rows: One row of text a node.
        choice: Why "auto" took its strategy; None under any other.
        at_once: Whether the slots share the cores and work at the same time, where they could take
            turns as well.
        partitions: Its partitions, in the order in which they run.
    """

    index: int
    label: str
    slots: tuple[SlotFacts, ...]
    transfers: tuple[TransferFacts, ...]
    rows: str
    choice: Choice | None = None
    at_once: bool = False
    partitions: tuple[PartitionFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class BreakFacts:
    """Where code left the captured graphs.

    Attributes:
        index: Number of the captured graph that ends there, or that could not be captured; None
            where Dynamo gave up a whole frame.
        reason: Why, with the user's source line where it is known.
        is_whole_graph: The whole graph runs uncaptured.
    """

    index: int | None
    reason: str
    is_whole_graph: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a model. `print` it.

    Attributes:
        name: Name of the model's class, or of the function.
        devices: Device of every slot.
        strategy: The strategy that was asked for, or that of the plan.
        inner: Name of the inner compiler.
        graphs: The placed graphs.
        breaks: Where code runs outside of them.
        num_graph_operations: Operations in the placed graphs, once each.
        num_eager_operations: Operations with two or more tensors that ran outside of them so far.
        num_alignments: Arguments that were transferred for those.
        uncaptured: Names of the modules whose parameters or buffers those used.
        unplaced: Names of parameters and buffers that nothing has used yet.
        repairs: Where the model's code would mix devices, and was put right.
        via_host: Pairs of its devices, source and destination, between which everything goes
            through the host's memory, because calibration found direct copies damaged.
    """

    name: str
    devices: tuple[str, ...]
    strategy: str
    inner: str
    graphs: tuple[GraphFacts, ...]
    breaks: tuple[BreakFacts, ...]
    num_graph_operations: int
    num_eager_operations: int
    num_alignments: int
    uncaptured: tuple[str, ...]
    unplaced: tuple[str, ...]
    repairs: tuple[Repair, ...]
    via_host: tuple[tuple[str, str], ...] = ()

    def transfers(self) -> tuple[TransferFacts, ...]:
        """Returns the transfers of all graphs."""
        return tuple(transfer for graph in self.graphs for transfer in graph.transfers)

    def summary(self) -> str:
        """Returns the report without the rows of the nodes."""
        return text.summary(self)

    def __str__(self) -> str:
        return text.full(self)


def make_report(compiled: CompiledModel | CompiledFunction) -> Report:
    """Returns the report of a compiled model or function, as it stands now."""
    records, options = compiled.records, compiled.options
    graphs = tuple(
        _graph_facts(index, graph, lowered)
        for index, graph in enumerate(records.graphs)
        for lowered in graph.lowered
    )
    return Report(
        name=compiled.name,
        devices=tuple(map(str, options.devices)),
        strategy=options.strategy if options.plan is None else options.plan.strategy,
        inner=compiled.compiler.inner.name,
        graphs=graphs,
        breaks=tuple(_breaks(records)),
        num_graph_operations=sum(slot.num_operations for g in graphs for slot in g.slots),
        num_eager_operations=records.num_eager_operations,
        num_alignments=records.num_alignments,
        uncaptured=tuple(sorted({n.rpartition(".")[0] or n for n in records.eager_state})),
        unplaced=compiled.unplaced() if isinstance(compiled, CompiledModel) else (),
        repairs=tuple(records.repairs),
        via_host=tuple(
            sorted((str(a), str(b)) for a, b in options.via_host if {a, b} <= {*options.devices})
        ),
    )


def _breaks(records: Records) -> list[BreakFacts]:
    found = []
    for index, graph in enumerate(records.graphs):
        if graph.capture_error is not None:
            found.append(BreakFacts(index, graph.capture_error, is_whole_graph=True))
        if graph.ended_by is not None:
            found.append(BreakFacts(index, graph.ended_by, is_whole_graph=False))
    known = {_place(entry.reason) for entry in found}
    found += [
        BreakFacts(None, reason, is_whole_graph=False)
        for reason in records.heard_breaks
        if _place(reason) not in known
    ]
    return found


def _place(reason: str) -> tuple[str, ...]:
    """Returns file and line of a break."""
    return tuple(reason.split(":", 2)[:2])


def _graph_facts(index: int, captured: CapturedGraph, lowered: LoweredGraph) -> GraphFacts:
    placed = lowered.placed
    names = captured.input_names(placed.graph)
    views = _state_views(lowered)
    transfers = tuple(
        _transfer_facts(placed, node, names, views.get(node.name))
        for node in placed.graph.nodes
        if is_transfer(node)
    )
    return GraphFacts(
        index=index,
        label=lowered.label,
        slots=tuple(_slot_facts(lowered, slot.index) for slot in placed.slots if slot.computes),
        transfers=transfers,
        rows=text.rows(placed, names, lowered.dag, lowered.costs, views.keys()),
        choice=captured.choice,
        at_once=any(slot.alone is not None for slot in lowered.topology.slots),
        partitions=partition_facts(lowered),
    )


def _slot_facts(lowered: LoweredGraph, slot: int) -> SlotFacts:
    placed = lowered.placed
    views = _state_views(lowered)
    here = [n for n in placed.graph.nodes if n.op != "output" and placed.slot_of(n).index == slot]
    operations = [n for n in here if n.op == "call_function" and not is_transfer(n)]
    partitions = [p for p in lowered.partitioning.partitions if p.slot == slot]
    return SlotFacts(
        index=slot,
        device=str(placed.slots[slot].device),
        num_operations=len(operations),
        num_partitions=len(partitions),
        predicted_s=sum(seconds(lowered.costs, n.name, slot) for n in operations),
        state_bytes=sum(
            num_bytes(n) for n in here if n.op == "placeholder" and _is_state(lowered.dag, n)
        ),
        kept_bytes=sum(num_bytes(n) for n in here if n.name in views),
    )


def _state_views(lowered: LoweredGraph) -> dict[str, StateView]:
    """Returns what transfers send of state whose copies are kept, by their names."""
    transfers = (step for step in lowered.program.steps if isinstance(step, Transfer))
    return {step.name: step.state_view for step in transfers if step.state_view is not None}


def _is_state(dag: Dag, node: fx.Node) -> bool:
    found = dag.by_name.get(node.name)
    return found is not None and found.kind is NodeKind.STATE


def _transfer_facts(
    placed: PlacedGraph, node: fx.Node, names: dict[str, str], view: StateView | None
) -> TransferFacts:
    source = transfer_source(node)
    return TransferFacts(
        value=source.name,
        origin=names.get(source.name) or (view and view.state) or source_line(source) or "",
        source=str(placed.slot_of(source).device),
        destination=str(placed.slot_of(node).device),
        num_bytes=content_bytes(node.meta["val"]),
        is_resident=view is not None,
        via_host=transfer_is_via_host(node),
    )
