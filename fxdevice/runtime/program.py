"""A program: the flat list of steps that a placed graph becomes.

A program is data. An executor runs it; it may run steps out of order as long as every step's
inputs are there. Values are numbered; a step names the values it reads and those it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

__all__ = [
    "CompiledPartition",
    "Program",
    "RunPartition",
    "StateView",
    "Step",
    "Transfer",
    "ValueId",
    "ViewOperation",
]

ValueId: TypeAlias = int
CompiledPartition: TypeAlias = Callable[[list[Any]], Sequence[Any]]
"""Takes its inputs in a list, which it may empty, and returns its outputs in order."""

ViewOperation: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], tuple[tuple[str, Any], ...]]
"""An operator, its arguments after the first, and its keyword arguments."""


@dataclass(frozen=True, slots=True)
class RunPartition:
    """Runs one compiled partition.

    Attributes:
        name: Name for messages and timelines, such as "forward.p0".
        slot: Index of the slot.
        device: Device of the slot.
        call: The compiled partition.
        inputs: Values that it reads, in the order of its parameters.
        outputs: Values that it makes.
        frees: Values that nothing needs after this step.
        waits: Steps of other slots, by position, that must have run before (`with_waits`).
        is_random: Whether it draws random numbers.
        origin: What it runs, for messages: its operations, and a line of the user's program.
    """

    name: str
    slot: int
    device: torch.device
    call: CompiledPartition
    inputs: tuple[ValueId, ...]
    outputs: tuple[ValueId, ...]
    frees: tuple[ValueId, ...] = ()
    waits: tuple[int, ...] = ()
    is_random: bool = False
    origin: str = ""

    @property
    def reads(self) -> tuple[ValueId, ...]:
        """The values that it reads."""
        return self.inputs

    @property
    def makes(self) -> tuple[ValueId, ...]:
        """The values that it makes."""
        return self.outputs


@dataclass(frozen=True, slots=True)
class StateView:
    """State, or a plain view of it, of which a slot keeps a copy between calls.

    Attributes:
        state: Qualified name of the state; None for state that stays with the caller.
        key: Equal for equal views of one state on one device, in all graphs of a model.
        operations: What makes the view of the state.
    """

    state: str | None
    key: str
    operations: tuple[ViewOperation, ...] = ()

    def of(self, state: torch.Tensor) -> torch.Tensor:
        """Returns the view of `state`: the state itself where there are no operations."""
        value: Any = state
        for target, args, kwargs in self.operations:
            value = target(value, *args, **dict(kwargs))
        assert isinstance(value, torch.Tensor)
        return value


@dataclass(frozen=True, slots=True)
class Transfer:
    """Brings one value to one device.

    Attributes:
        name: Name for messages and timelines, such as "mul_3_to1".
        source: Value that it reads.
        destination: Value that it makes.
        slot: Index of the slot that gets it.
        device: Device of that slot.
        state_view: What it sends of state that stays the same: the copy is kept between calls and
            made anew when the state has changed. None where it is sent on every call.
        is_packed: It leaves out gaps between the elements.
        via_host: It goes through the host's memory.
        frees: Values that nothing needs after this step.
        waits: Steps of other slots, by position, that must have run before (`with_waits`).
    """

    name: str
    source: ValueId
    destination: ValueId
    slot: int
    device: torch.device
    state_view: StateView | None = None
    is_packed: bool = False
    via_host: bool = False
    frees: tuple[ValueId, ...] = ()
    waits: tuple[int, ...] = ()

    @property
    def is_resident(self) -> bool:
        """Whether the copy is kept between calls."""
        return self.state_view is not None

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers."""
        return False

    @property
    def origin(self) -> str:
        """What it runs, for messages."""
        return f"transfer of a value to {self.device}"

    @property
    def reads(self) -> tuple[ValueId, ...]:
        """The values that it reads."""
        return (self.source,)

    @property
    def makes(self) -> tuple[ValueId, ...]:
        """The values that it makes."""
        return (self.destination,)


Step: TypeAlias = RunPartition | Transfer


@dataclass(frozen=True, slots=True)
class Program:
    """Steps in an order in which they can run.

    Attributes:
        num_values: Values are numbered 0 to num_values - 1.
        inputs: Values of the graph's inputs, in order.
        constants: Values that are there from the start.
        steps: What to do.
        outputs: For each graph output the value, or None for an output that is None.
        literals: Outputs that are plain numbers, by output position.
        drops_trainable: Whether kept copies of state that requires gradients are dropped first.
    """

    num_values: int
    inputs: tuple[ValueId, ...]
    constants: tuple[tuple[ValueId, torch.Tensor], ...]
    steps: tuple[Step, ...]
    outputs: tuple[ValueId | None, ...]
    literals: tuple[tuple[int, Any], ...] = ()
    drops_trainable: bool = False
