"""One captured graph as the strategies see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag
from fxdevice.graph_inputs import GraphInputs
from fxdevice.memory_model import MemoryOptions
from fxdevice.passes.prepare import preparation, strategy_graph
from fxdevice.placement import PlacementProblem
from fxdevice.profiling import TimeFactors, with_time_factors
from fxdevice.topology import Topology

__all__ = ["StrategyProblems"]


@dataclass
class StrategyProblems:
    """A normalized graph, prepared for each strategy that is asked for.

    Attributes:
        graph: The graph.
        inputs: What is known of its inputs.
        inner: Name of the inner compiler.
        topology: The slots; in turns as well, where they can be used so.
        resident_bytes: Bytes of state that is already on each slot.
        together: Qualified names of modules that must not be divided.
        factors: What was measured of the modules.
        optimizer: Whose state must find room; None for none.
    """

    graph: fx.Graph
    inputs: GraphInputs
    inner: str
    topology: Topology
    resident_bytes: tuple[int, ...]
    together: tuple[str, ...] = ()
    factors: TimeFactors = field(default_factory=dict)
    optimizer: str | None = None
    _known: dict[str, tuple[fx.Graph, Dag]] = field(default_factory=dict, init=False)
    _problems: dict[tuple[str, bool], PlacementProblem] = field(default_factory=dict, init=False)

    def graph_for(self, strategy: str) -> fx.Graph:
        """Returns the graph that a strategy places."""
        return self._prepared(preparation(strategy))[0]

    def problem_for(self, strategy: str, in_turns: bool = False) -> PlacementProblem:
        """Returns the same as a problem.

        Args:
            strategy: Its name.
            in_turns: Whether the slots take turns (`Topology.in_turns`).
        """
        key = (preparation(strategy), in_turns)
        if key not in self._problems:
            self._problems[key] = self._problem(*key)
        return self._problems[key]

    def topology_for(self, in_turns: bool) -> Topology:
        """Returns the slots, at once or in turns."""
        if not in_turns:
            return self.topology
        turns = self.topology.in_turns()
        assert turns is not None
        return turns

    def _prepared(self, key: str) -> tuple[fx.Graph, Dag]:
        if key not in self._known:
            self._known[key] = self._made(key)
        return self._known[key]

    def _made(self, strategy: str) -> tuple[fx.Graph, Dag]:
        known = self.inputs.by_placeholder(self.graph)
        qualified = self.inputs.module_paths.qualified
        graph, dag = strategy_graph(
            self.graph, strategy, known, qualified, self.inner, self.together
        )
        return graph, with_time_factors(dag, self.factors)

    def _problem(self, key: str, in_turns: bool) -> PlacementProblem:
        _, dag = self._prepared(key)
        topology = self.topology_for(in_turns)
        known = self.inputs.by_placeholder(self.graph)
        pins = {name: found.slot for name, found in known.items() if found.slot is not None}
        pins |= self.inputs.pinned_nodes(dag)
        costs = estimate_costs(dag, topology)
        memory = MemoryOptions(self.optimizer, holds_inputs=self.inner == "eager")
        return PlacementProblem(dag, topology, costs, pins, self.resident_bytes, memory)
