"""A program: the flat list of steps that a placed graph becomes.

A program is data. An executor runs it; it may run steps out of order as long as every step's
inputs are there. Values are numbered; a step names the values it reads and those it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

__all__ = ["CompiledPartition", "Program", "RunPartition", "Step", "Transfer", "ValueId"]

ValueId: TypeAlias = int
CompiledPartition: TypeAlias = Callable[[list[Any]], Sequence[Any]]
"""Takes its inputs in a list, which it may empty, and returns its outputs in order."""


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
class Transfer:
    """Brings one value to one device.

    Attributes:
        name: Name for messages and timelines, such as "mul_3_to1".
        source: Value that it reads.
        destination: Value that it makes.
        slot: Index of the slot that gets it.
        device: Device of that slot.
        is_resident: The value is state that stays with the caller: the copy is kept between calls
            and refreshed when the original has changed.
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
    is_resident: bool = False
    is_packed: bool = False
    via_host: bool = False
    frees: tuple[ValueId, ...] = ()
    waits: tuple[int, ...] = ()

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
    """

    num_values: int
    inputs: tuple[ValueId, ...]
    constants: tuple[tuple[ValueId, torch.Tensor], ...]
    steps: tuple[Step, ...]
    outputs: tuple[ValueId | None, ...]
    literals: tuple[tuple[int, Any], ...] = ()
