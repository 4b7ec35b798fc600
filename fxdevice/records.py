"""What a compiled model remembers of its graphs, for the report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import fx

from fxdevice.choose import Choice
from fxdevice.driver import LoweredGraph
from fxdevice.graph_inputs import InputHome, input_index
from fxdevice.repairs import Repair
from fxdevice.results import KeptOnCpu

__all__ = ["CapturedGraph", "Records"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CapturedGraph:
    """One graph of Dynamo and what it became.

    Attributes:
        module: Dynamo's graph.
        homes: What was known of its inputs when it was placed.
        lowered: Its forward and backward, or inference, graph.
        ended_by: Why Dynamo ended it before the model's end; None when it did not.
        capture_error: Why AOTAutograd could not capture it, so that it runs uncaptured; else None.
        choice: Why "auto" took its strategy; None under any other.
    """

    module: fx.GraphModule
    homes: Sequence[InputHome]
    lowered: Sequence[LoweredGraph]
    ended_by: str | None = None
    capture_error: str | None = None
    choice: Choice | None = None

    def input_names(self, graph: fx.Graph) -> dict[str, str]:
        """Returns the names of state and inputs behind the placeholders of a lowered graph."""
        found = {}
        for node in graph.find_nodes(op="placeholder"):
            index = input_index(node)
            if index is not None:
                found[node.name] = self.homes[index].name
        return found


@dataclass
class Records:
    """Grows with every graph that is compiled.

    Attributes:
        graphs: The graphs, in the order of their compilation.
        num_eager_operations: Operations that ran outside of graphs.
        num_alignments: Arguments that were transferred for them.
        eager_state: Names of parameters and buffers that they used.
        heard_breaks: Graph breaks, each once, in the order in which Dynamo met them.
        repairs: What was put right, each once.
        kept_on_cpu: Results that the user's code moved to the CPU.
    """

    graphs: list[CapturedGraph] = field(default_factory=list)
    num_eager_operations: int = 0
    num_alignments: int = 0
    eager_state: set[str] = field(default_factory=set)
    heard_breaks: dict[str, None] = field(default_factory=dict)
    repairs: dict[Repair, None] = field(default_factory=dict)
    kept_on_cpu: KeptOnCpu = field(default_factory=KeptOnCpu)

    def add_break(self, reason: str) -> None:
        """Remembers a graph break."""
        if reason not in self.heard_breaks:
            log.info("graph break: %s", reason)
        self.heard_breaks.setdefault(reason)

    def add_repairs(self, repairs: Iterable[Repair]) -> None:
        """Remembers what was put right."""
        self.repairs.update(dict.fromkeys(repairs))

    def add_graph(self, graph: CapturedGraph) -> None:
        """Remembers a graph."""
        self.graphs.append(graph)
