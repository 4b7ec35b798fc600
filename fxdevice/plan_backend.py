"""The Dynamo backend of a plan: keeps every graph and compiles none.

What `fxdevice.backend` and `fxdevice.driver` do up to the placement is done here too, in the same
order, so that a plan is made for the graphs that will be placed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from functorch.compile import aot_module_simplified  # type: ignore[import-untyped]
from torch import fx, nn
from torch._dynamo.exc import RestartAnalysis, SkipFrame
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fxdevice.backend import break_of
from fxdevice.cut import cut_joint
from fxdevice.dag import Dag, NodeKind
from fxdevice.graph_inputs import GraphInputs, InputHome
from fxdevice.module_paths import input_name
from fxdevice.passes.estimate_costs import GraphInput, estimate_costs
from fxdevice.passes.normalize import normalize
from fxdevice.pins import Pins
from fxdevice.sizes import size_hint
from fxdevice.state import StateTensor, state_tensors

__all__ = ["CapturedForPlan", "PlanBackend"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CapturedForPlan:
    """One graph as `fxdevice.compile` would place it.

    Attributes:
        label: "inference", or "joint" for forward and backward.
        root: What the graph's `get_attr` nodes refer to.
        graph: The normalized ATen graph, with fake values on the trace device.
        inputs: What is known of its placeholders, by node name; tangents are not among them.
        module_name: Turns the tracer's expression for a module into its qualified name.
        dag: The graph as placers see it when nothing is divided.
        num_calls: How often the call that was captured runs it; code between graph breaks can run
            one graph for every layer, each time with other state.
        ended_by: Why Dynamo ended it before the model's end, with the source line; else None.
        stopped_by: For the last graph: why the capture could not go on behind it, with the source
            line; None when the whole call was captured.
    """

    label: str
    root: fx.GraphModule = field(repr=False)
    graph: fx.Graph = field(repr=False)
    inputs: Mapping[str, GraphInput] = field(repr=False)
    module_name: Callable[[str], str] = field(repr=False)
    dag: Dag = field(repr=False)
    num_calls: int = 1
    ended_by: str | None = None
    stopped_by: str | None = None

    @property
    def state_names(self) -> dict[str, str]:
        """Qualified names of parameters, buffers and tensor attributes, by placeholder name."""
        return self._names(NodeKind.STATE)

    @property
    def input_names(self) -> dict[str, str]:
        """What the caller calls the other inputs, by placeholder name."""
        return self._names(NodeKind.INPUT)

    @property
    def tangents(self) -> tuple[str, ...]:
        """Names of the placeholders of gradients that come from outside."""
        return tuple(
            node.name
            for node in self.graph.find_nodes(op="placeholder")
            if node.name not in self.inputs
        )

    def _names(self, kind: NodeKind) -> dict[str, str]:
        return {name: known.name for name, known in self.inputs.items() if known.kind is kind}


def _as_it_is(module: fx.GraphModule) -> fx.GraphModule:
    return module


@dataclass
class PlanBackend:
    """Keeps the graphs of one model on the meta device.

    Attributes:
        model: The model; its parameters are on the meta device.
        decompositions: As AOTAutograd takes them.
        simplify: As `InnerCompiler.simplified`.
        fuses: Whether the inner compiler joins operations into kernels.
        graphs: The graphs so far, in the order of their capture.
        runs: What Dynamo runs in place of each.
    """

    model: nn.Module
    decompositions: dict[Any, Callable[..., Any]] | None = None
    simplify: Callable[[fx.GraphModule], fx.GraphModule] = _as_it_is
    fuses: bool = False
    graphs: list[CapturedForPlan] = field(default_factory=list)
    runs: list[_Run] = field(default_factory=list)

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Captures one graph of Dynamo; returns what makes empty outputs for it."""
        state = {id(found.tensor): found for found in state_tensors(self.model)}
        nodes = module.graph.find_nodes(op="placeholder")
        homes = [_home(n, v, state) for n, v in zip(nodes, example_inputs, strict=True)]
        inputs = GraphInputs(homes, (), Pins())
        capture = _Capture(inputs, break_of(module), self.simplify, self.fuses)
        try:
            compiled: Callable[..., Any] = aot_module_simplified(
                module,
                example_inputs,
                fw_compiler=_empty_outputs,
                bw_compiler=_empty_outputs,
                inference_compiler=capture.keep_inference,
                partition_fn=capture.keep_joint,
                decompositions=self.decompositions,
            )
        except (RestartAnalysis, SkipFrame):
            raise  # Dynamo's own control flow, as in fxdevice.backend
        except Exception as error:
            if capture.is_entered:
                raise
            log.warning("PyTorch could not capture a graph, so no plan has it: %s", error)
            return module
        assert capture.found is not None
        self.graphs.append(capture.found)
        run = _Run(compiled)
        self.runs.append(run)
        return lambda *args: run(*args)

    def captured(self) -> list[CapturedForPlan]:
        """Returns the graphs with their number of calls; nothing can run afterwards.

        Dynamo keeps some of what it compiled for good, and must not so keep the graphs.
        """
        for run in self.runs:
            run.compiled = None
        return [
            replace(graph, num_calls=run.num_calls)
            for graph, run in zip(self.graphs, self.runs, strict=True)
        ]


@dataclass
class _Run:
    """Stands for the compiled code of one graph."""

    compiled: Callable[..., Any] | None
    num_calls: int = 0

    def __call__(self, *args: Any) -> Any:
        assert self.compiled is not None, "the capture has ended"
        self.num_calls += 1
        return self.compiled(*args)


@dataclass
class _Capture:
    """What AOTAutograd calls while it captures one graph."""

    inputs: GraphInputs
    ended_by: str | None
    simplify: Callable[[fx.GraphModule], fx.GraphModule]
    fuses: bool
    is_entered: bool = False
    found: CapturedForPlan | None = None

    def keep_inference(self, module: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        self._keep("inference", self.simplify(module))
        return _empty_outputs(module, _)

    def keep_joint(
        self, joint: fx.GraphModule, joint_inputs: Any, **options: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        joint = self.simplify(joint)
        graph = self._keep("joint", joint)
        # The cut tags and moves nodes of the graph that it gets.
        return cut_joint(fx.GraphModule(joint, normalize(graph)), joint_inputs, **options)

    def _keep(self, label: str, module: fx.GraphModule) -> fx.Graph:
        self.is_entered = True
        graph = normalize(module.graph)
        inputs = self.inputs.by_placeholder(graph)
        name = self.inputs.module_paths.qualified
        dag = estimate_costs(graph, inputs, name, fuses=self.fuses)
        self.found = CapturedForPlan(label, module, graph, inputs, name, dag, 0, self.ended_by)
        return graph


def _empty_outputs(module: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
    """Returns what makes new tensors without content for the outputs of a graph."""
    (values,) = module.graph.output_node().args
    assert isinstance(values, (tuple, list))
    traced = [v.meta.get("val") if isinstance(v, fx.Node) else v for v in values]

    def run(*_: Any) -> list[Any]:
        return [_without_content(value) for value in traced]

    return run


def _without_content(value: Any) -> Any:
    if isinstance(value, torch.SymInt):
        return size_hint(value)
    if not isinstance(value, torch.Tensor):
        return value
    sizes = tuple(size_hint(size) for size in value.size())
    if value.layout != torch.strided:
        return torch.empty(sizes, dtype=value.dtype, layout=value.layout, device="meta")
    strides = tuple(size_hint(stride) for stride in value.stride())
    return torch.empty_strided(sizes, strides, dtype=value.dtype, device="meta")


def _home(node: fx.Node, value: object, state: Mapping[int, StateTensor]) -> InputHome:
    if not isinstance(value, torch.Tensor):
        return InputHome(node.name)
    name = getattr(getattr(node.meta.get("grapharg"), "source", None), "name", None)
    expression = name if isinstance(name, str) else node.name
    needs_gradient = value.requires_grad and torch.is_grad_enabled()
    found = state.get(id(value))
    if found is None or not _can_be_resident(value):
        return InputHome(input_name(expression), device=value.device, needs_gradient=needs_gradient)
    storage = value.untyped_storage()
    return InputHome(
        found.name,
        expression,
        is_state=True,
        device=value.device,
        needs_gradient=needs_gradient,
        storage_key=storage._cdata if storage.nbytes() else None,
    )


def _can_be_resident(value: torch.Tensor) -> bool:
    """Returns whether fxdevice would move `value`, if it had content."""
    is_plain = value.layout == torch.strided and not is_traceable_wrapper_subclass(value)
    return is_plain and value.is_leaf
