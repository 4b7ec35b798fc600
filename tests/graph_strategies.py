"""Random placed graphs, and an interpreter that runs one on the devices of its slots.

A random program works on a pool of [4, 4] tensors. Its operations are chosen for what they do to
the passes: views of every kind, overlapping memory, tuples, generators, constants, symbols.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice import sim
from fxdevice.placed_graph import NodeInfo, PlacedGraph, PlacedSlot, set_node_info

sim.enable(8)  # before a device of that name can be written

TracingMode = Literal["fake", "symbolic"]

_TRACING_MODES: tuple[TracingMode, ...] = ("fake", "symbolic")

SIZE = 4


def _picked_maximum(a: Tensor, b: Tensor) -> Tensor:
    values, indices = a.max(dim=1, keepdim=True)
    return values.expand(SIZE, SIZE) + indices * b


def _causal(a: Tensor, b: Tensor) -> Tensor:
    rows, columns = torch.arange(a.shape[0]).unsqueeze(1), torch.arange(SIZE)
    return torch.where(columns <= rows, a, b)


def _split(a: Tensor, b: Tensor) -> Tensor:
    left, right = torch.split(a, 2, dim=1)
    return torch.cat([right, left], dim=1) - b


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda a, b: -a,
    lambda a, b: a + b,
    lambda a, b: a @ b,
    lambda a, b: a.t(),
    lambda a, b: a.t() * b,
    lambda a, b: a[:1].expand(SIZE, SIZE) + b,
    lambda a, b: a[:1].expand(SIZE, SIZE),
    lambda a, b: torch.cat([a[:2], b[2:]]),
    lambda a, b: torch.cat([a[:, 1:3], b[:, 1:3]], dim=1),
    lambda a, b: a.reshape(16).view(SIZE, SIZE) + a.reshape(2, 8).sum(),
    lambda a, b: torch.as_strided(a.clone(), (SIZE, SIZE), (1, SIZE)),
    lambda a, b: torch.as_strided((a + b).reshape(-1)[2:], (SIZE, SIZE), (3, 1), 1),
    lambda a, b: torch.as_strided((a + b).reshape(-1)[12:], (SIZE, SIZE), (SIZE, 1), 0),
    lambda a, b: a.reshape(16).unfold(0, 7, 3)[:, :SIZE],
    lambda a, b: a.sum() * b,
    lambda a, b: a + torch.zeros(SIZE, SIZE) + torch.full((), 2.0),
    lambda a, b: a * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    lambda a, b: a * a.shape[0] + b.shape[0] * b.shape[1],
    lambda a, b: torch.var_mean(a, dim=0)[1].expand(SIZE, SIZE) - b,
    lambda a, b: a.double().float() + torch.ones_like(b),
    _picked_maximum,
    _causal,
    _split,
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A random program.

    Attributes:
        num_inputs: Number of [4, 4] inputs.
        steps: Operation and operands (positions in the pool, counted from its end).
        num_outputs: How many of the last values are returned.
    """

    num_inputs: int
    steps: tuple[tuple[int, int, int], ...]
    num_outputs: int

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        pool = list(inputs)
        for operation, first, second in self.steps:
            a, b = pool[-1 - first % len(pool)], pool[-1 - second % len(pool)]
            pool.append(OPERATIONS[operation](a, b))
        return tuple(pool[-self.num_outputs :])

    def trace(self, tracing_mode: TracingMode = "fake") -> fx.GraphModule:
        """Returns the ATen graph with a fake value on every node."""
        module: fx.GraphModule = make_fx(self, tracing_mode=tracing_mode)(*self.inputs())
        return module

    def inputs(self) -> list[Tensor]:
        """Returns inputs that make every step exact or close to it."""
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(SIZE, SIZE, generator=generator) for _ in range(self.num_inputs)]


VIEW_OPERATIONS = (0, 1, 3, 5, 7, 8, len(OPERATIONS) - 1)
"""Positions of operations on slices, expansions and halves, and of two without views."""


def programs(
    max_steps: int = 8, operations: Sequence[int] = range(len(OPERATIONS))
) -> st.SearchStrategy[Program]:
    """Returns programs of up to `max_steps` of the `operations` (positions in OPERATIONS)."""
    step = st.tuples(st.sampled_from(operations), st.integers(0, 5), st.integers(0, 5))
    steps = st.lists(step, min_size=1, max_size=max_steps).map(tuple)
    return st.builds(Program, st.integers(1, 3), steps, st.integers(1, 3))


SIM_SLOTS = (
    PlacedSlot(0, torch.device("fxsim", 0)),
    PlacedSlot(1, torch.device("fxsim", 1)),
    PlacedSlot(2, torch.device("fxsim", 1)),
    PlacedSlot(3, torch.device("cpu"), computes=False),
    PlacedSlot(4, torch.device("fxsim", 2), computes=False),
)
"""Three slots on two devices, and two devices where the caller keeps inputs."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A random placed graph with what it computes.

    Attributes:
        placed: The graph without transfers.
        program: What it was traced from.
    """

    placed: PlacedGraph
    program: Program


@st.composite
def cases(
    draw: st.DrawFn,
    slots: tuple[PlacedSlot, ...] = SIM_SLOTS,
    max_steps: int = 8,
    operations: Sequence[int] = range(len(OPERATIONS)),
    tracing_mode: TracingMode | None = None,
) -> Case:
    """Draws a program, traces it, and puts every node on a random slot."""
    program = draw(programs(max_steps, operations))
    mode = tracing_mode if tracing_mode is not None else draw(st.sampled_from(_TRACING_MODES))
    module = program.trace(mode)
    anywhere = st.sampled_from([slot.index for slot in slots])
    computing = st.sampled_from([slot.index for slot in slots if slot.computes])
    for node in module.graph.nodes:
        if node.op != "output":
            slot = draw(anywhere if node.op == "placeholder" else computing)
            set_node_info(node, NodeInfo(slot, "drawn"))
    ends = draw(st.tuples(*[st.none() | anywhere] * len(program(*program.inputs()))))
    return Case(PlacedGraph(module, module.graph, slots, ends), program)


class PlacedInterpreter(fx.Interpreter):
    """Runs a placed graph with every value on the device of its slot."""

    def __init__(self, placed: PlacedGraph) -> None:
        super().__init__(placed.root, graph=placed.graph)
        self.placed = placed

    def run_node(self, n: fx.Node) -> object:
        """Checks that a tensor is made where its slot is."""
        result = super().run_node(n)
        if n.op == "output":
            return result
        device = self.placed.slot_of(n).device
        if isinstance(result, Tensor):
            if n.op in ("placeholder", "get_attr"):
                result = result.to(device)
            assert result.device == device, f"{n.name} is on {result.device}, not {device}"
            fake = n.meta["val"]
            assert tuple(map(int, fake.stride())) == result.stride(), n.name
        return result


def run_placed(placed: PlacedGraph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the outputs of `placed`, wherever they are."""
    return list(PlacedInterpreter(placed).run(*inputs))
