"""The one visible list of passes: a captured graph in, a runnable program out.

For training the passes see the joint graph of forward and backward first: there the placement is
decided, with activations and gradients counted. The partitioner of AOTAutograd then cuts it into a
forward and a backward graph, whose nodes keep their slots, and each is lowered on its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from fxdevice.choose import Choice, ProblemOf, choose_strategy, choose_way
from fxdevice.connections import check_links
from fxdevice.costs import CostTable
from fxdevice.cut import cut_joint
from fxdevice.dag import Dag, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.expand import expand
from fxdevice.expanded import expanded_problem
from fxdevice.graph_inputs import GraphInputs, input_index
from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.assign_slots import assign_slots, complete_slots
from fxdevice.passes.divide_nodes import divide_nodes
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.passes.normalize import normalize
from fxdevice.passes.order_nodes import order_nodes
from fxdevice.passes.partition import Partitioning, partition
from fxdevice.pipeline import Pass, Pipeline
from fxdevice.placed_graph import PlacedGraph
from fxdevice.placement import Placement, ordered_problem
from fxdevice.placers import divides, placer_named
from fxdevice.plans import Plan
from fxdevice.profiling import TimedCompiler, TimeFactors, measure_modules
from fxdevice.runtime.at_once import inner_for, overlap_of
from fxdevice.runtime.equal_partitions import EqualPartitions
from fxdevice.runtime.executors import Executor, make_executor
from fxdevice.runtime.inner import InnerCompiler
from fxdevice.runtime.kept_copies import KeptCopies
from fxdevice.runtime.lower import lower
from fxdevice.runtime.program import Program
from fxdevice.runtime.state_views import with_state_views
from fxdevice.runtime.stream_call import CallerStreams
from fxdevice.runtime.strides import restride_placeholders
from fxdevice.staging import DevicePairs
from fxdevice.strategy_problems import StrategyProblems
from fxdevice.topology import Topology
from fxdevice.verify import verify

__all__ = ["GraphDriver", "LoweredGraph", "default_pipeline"]

log = logging.getLogger(__name__)


def default_pipeline() -> Pipeline:
    """Returns the passes between placement and partitions, in order."""
    return Pipeline(
        (
            Pass("insert_transfers", insert_transfers),
            Pass("assign_devices", assign_devices, ensures=(verify,)),
        )
    )


@dataclass(frozen=True)
class LoweredGraph:
    """One graph after all passes, kept for the report.

    Attributes:
        label: "forward", "backward" or "inference".
        placed: The placed graph, transfers included.
        partitioning: Its partitions.
        program: What runs.
        dag: The costs that the placer saw (of the joint graph when training).
        costs: Seconds by node and slot.
        topology: The slots as they are used, at once or in turns.
    """

    label: str
    placed: PlacedGraph
    partitioning: Partitioning
    program: Program
    dag: Dag
    costs: CostTable
    topology: Topology


@dataclass
class GraphDriver:
    """Takes one captured graph through the passes.

    Attributes:
        inputs: What is known of the graph's inputs.
        topology: The slots. Those that can be used at once and in turns are used, graph by graph,
            as is predicted to be faster.
        strategy: Name of the placer; "auto" for the fastest that fits, by simulation.
        inner: The inner compiler.
        resident_bytes: Bytes of state that is already on each slot.
        plan: A plan to follow: node by node where the graph is one that was planned, else by its
            strategy around the places of its state.
        is_first: Whether no graph of the model was placed before.
        together: Qualified names of modules that must not be divided between slots.
        profile: Whether to measure modules and partitions.
        via_host: Devices between which transfers are staged.
        optimizer: Whose state must find room; None for none.
        copies: The kept copies of the model.
        lowered: The graphs lowered so far.
        state_slots: Slot that the placement gave each state input, by input position.
        is_captured: Whether AOTAutograd has captured the graph; a later failure is not its own.
        choice: Why "auto" took its strategy; None under any other.
    """

    inputs: GraphInputs
    topology: Topology
    strategy: str
    inner: InnerCompiler
    resident_bytes: tuple[int, ...]
    plan: Plan | None = None
    is_first: bool = True
    together: tuple[str, ...] = ()
    profile: bool = False
    via_host: DevicePairs = frozenset()
    optimizer: str | None = None
    copies: KeptCopies = field(default_factory=KeptCopies)
    lowered: list[LoweredGraph] = field(default_factory=list)
    state_slots: dict[int, int] = field(default_factory=dict)
    is_captured: bool = False
    choice: Choice | None = None
    _dag: Dag | None = None
    _costs: CostTable | None = None
    _used_topology: Topology | None = None
    _forward_streams: CallerStreams = field(default_factory=CallerStreams)

    def split(
        self, joint: fx.GraphModule, joint_inputs: Any, **options: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        """Places the joint graph and cuts it: AOTAutograd's `partition_fn`.

        Transfers are inserted before the cut, so that backward reads what forward transferred and
        does not transfer it again.
        """
        self.is_captured = True
        joint = self.inner.simplified(joint)
        graph = self._place(joint, normalize(joint.graph))
        placed = insert_transfers(self._placed(joint, graph))
        return cut_joint(fx.GraphModule(joint, placed.graph), joint_inputs, **options)

    def compile_inference(self, module: fx.GraphModule, _: Sequence[Any]) -> Executor:
        """Places and lowers a graph that no gradient is asked of."""
        self.is_captured = True
        module = self.inner.simplified(module)
        return self._lower(module, self._place(module, normalize(module.graph)), "inference")

    def compile_forward(self, module: fx.GraphModule, _: Sequence[Any]) -> Executor:
        """Lowers the forward graph that `split` made."""
        return self._lower(module, module.graph, "forward")

    def compile_backward(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Executor:
        """Lowers the backward graph that `split` made, for inputs as forward leaves them."""
        restride_placeholders(module.graph, inputs)
        return self._lower(module, module.graph, "backward")

    def _place(self, root: fx.GraphModule, graph: fx.Graph) -> fx.Graph:
        """Places a normalized graph; returns it, or the graph of its pieces, with slots."""
        problems = StrategyProblems(
            graph,
            self.inputs,
            self.inner.name,
            self.topology,
            self.resident_bytes,
            self.together,
            optimizer=self.optimizer,
        )
        if self.profile and self._has_choice():
            problems = replace(problems, factors=self._factors(root, graph, problems))
        strategy, placement, in_turns = self._placement(problems)
        graph, problem = problems.graph_for(strategy), problems.problem_for(strategy, in_turns)
        self._used_topology = problem.topology
        if placement.order:
            graph = order_nodes(graph, placement.order)
            problem = ordered_problem(problem, placement.order)
        dag = problem.dag
        self._record_state(graph, placement, dag)
        if placement.layout_of:
            returned = [node.name for node in graph.output_node().all_input_nodes]
            expansion = expand(dag, placement, returned)
            graph, placement = divide_nodes(graph, expansion)
            problem, _ = expanded_problem(problem, expansion)
        self._dag, self._costs = problem.dag, problem.costs
        assign_slots(graph, placement, self.inputs.located(graph, placement))
        return graph

    def _has_choice(self) -> bool:
        """Returns whether a placement depends on what anything takes."""
        is_given = self.plan is not None or self.strategy == "single"
        return len(self.topology.slots) > 1 and not is_given

    def _factors(
        self, root: fx.GraphModule, graph: fx.Graph, problems: StrategyProblems
    ) -> TimeFactors:
        # This thread measures, with all cores.
        return measure_modules(
            PlacedGraph(root, graph, self.inputs.slots, ()),
            problems.problem_for("single").dag,
            self.topology.in_turns() or self.topology,
            self.inner,
            fuses=self.inner.name == "inductor",
        )

    def _placement(self, problems: StrategyProblems) -> tuple[str, Placement, bool]:
        """Places a graph; returns the strategy whose graph was placed, where, and if in turns.

        A graph that is not the model's first need not suit the strategy: between graph breaks there
        are small graphs without a batch, or without anything to divide.

        Raises:
            PlacementError: The strategy, or every one under "auto", cannot place the graph.
        """
        if self.plan is None and self.strategy == "auto":
            trial, self.choice = choose_strategy(problems.problem_for, self.topology)
            assert trial.placement is not None
            log.info("auto chose %s", trial.strategy)
            return trial.strategy, trial.placement, trial.in_turns
        strategy = self.strategy if self.plan is None else self.plan.strategy
        problem = problems.problem_for(strategy)
        planned = None if self.plan is None else self.plan.placement_of(problem.dag)
        if planned is not None:
            return strategy, planned, False
        try:
            return strategy, *self._placed_by(strategy, problems.problem_for)
        except PlacementError as error:
            if self.is_first or not divides(strategy):
                raise
            log.info("a later graph is placed by 'pipeline' instead of %r: %s", strategy, error)
            return strategy, *self._placed_by(
                "pipeline", lambda _, in_turns: problems.problem_for(strategy, in_turns)
            )

    def _placed_by(self, placer: str, problem_of: ProblemOf) -> tuple[Placement, bool]:
        if self.topology.in_turns() is None:
            return placer_named(placer)(problem_of(placer, False)), False
        trial = choose_way(placer, problem_of, self.topology)
        assert trial.placement is not None
        return trial.placement, trial.in_turns

    def _record_state(self, graph: fx.Graph, placement: Placement, dag: Dag) -> None:
        for node in graph.find_nodes(op="placeholder"):
            index = input_index(node)
            if index is not None and dag[node.name].kind is NodeKind.STATE:
                self.state_slots[index] = placement.slot_of[node.name]

    def _placed(self, root: fx.GraphModule, graph: fx.Graph) -> PlacedGraph:
        output_slots = self.inputs.output_slots(graph, self.state_slots)
        return PlacedGraph(root, graph, self.inputs.slots, output_slots, self.via_host)

    def _lower(self, root: fx.GraphModule, graph: fx.Graph, label: str) -> Executor:
        assert self._dag is not None
        assert self._costs is not None
        assert self._used_topology is not None
        complete_slots(graph)
        placed = default_pipeline()(self._placed(root, graph))
        check_links(placed, self._used_topology)
        resident = self.inputs.resident_state(graph, label)
        running, state_views = with_state_views(placed, resident)
        used = self._used_topology
        partitioning = partition(running, overlap_of(running, self._costs, used))
        slots = [item.slot for item in partitioning.partitions]
        inner = EqualPartitions(inner_for(self.inner, slots, used))
        program = lower(
            running,
            partitioning,
            TimedCompiler(inner) if self.profile else inner,
            label=label,
            state_views=state_views,
            drops_trainable=self.inputs.drops_trainable(label),
        )
        self.lowered.append(
            LoweredGraph(label, placed, partitioning, program, self._dag, self._costs, used)
        )
        return make_executor(
            program,
            used,
            self.copies,
            is_first_alone=self.profile,
            forward=None if label == "inference" else self._forward_streams,
            is_backward=label == "backward",
        )
