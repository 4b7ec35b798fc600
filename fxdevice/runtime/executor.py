"""Runs a program step by step on the calling thread."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from fxdevice.runtime.kept_copies import KeptCopies, sent
from fxdevice.runtime.program import Program, RunPartition, Step, Transfer

__all__ = [
    "SerialExecutor",
    "add_step_note",
    "current_device",
    "first_values",
    "outputs_of",
    "run_partition",
]

_NOTHING = contextlib.nullcontext()


class SerialExecutor:
    """Callable form of a program: takes the graph's inputs in a list, returns its outputs.

    Args:
        program: What to run.
        copies: The kept copies of the model; None for some of its own.
    """

    # AOTAutograd hands its arguments over in one list, so that they can be freed early.
    _boxed_call = True

    def __init__(self, program: Program, copies: KeptCopies | None = None) -> None:
        self.program = program
        self._copies = KeptCopies() if copies is None else copies

    def __call__(self, args: list[Any]) -> list[Any]:
        """Runs the program.

        Args:
            args: The graph's inputs; emptied.

        Returns:
            The graph's outputs.
        """
        program = self.program
        if program.drops_trainable:
            self._copies.drop_trainable()
        values = first_values(program, args)
        # A step is compiled code: the alignment of eager code has no business in it.
        # AOTAutograd has mostly switched gradients off: to do so again takes microseconds.
        gradients = torch.no_grad() if torch.is_grad_enabled() else _NOTHING
        with torch._C.DisableTorchFunction(), gradients:
            for step in program.steps:
                try:
                    if isinstance(step, Transfer):
                        values[step.destination] = self._transferred(step, values[step.source])
                    else:
                        with current_device(step.device):
                            run_partition(step, values)
                except BaseException as error:
                    add_step_note(error, step)
                    raise
                for value in step.frees:
                    values[value] = None
        return outputs_of(program, values)

    def _transferred(self, step: Transfer, value: torch.Tensor) -> torch.Tensor:
        if step.state_view is not None:
            return self._copies.copy_of(value, step, step.state_view)
        return value if value.device == step.device else sent(step, value)


def first_values(program: Program, args: list[Any]) -> list[Any]:
    """Returns the values that are there before the first step; empties `args`, the inputs."""
    values: list[Any] = [None] * program.num_values
    assert len(args) == len(program.inputs)
    # No loop over the arguments themselves: its variable would keep the last one alive.
    for position, value in enumerate(program.inputs):
        values[value] = args[position]
    args.clear()
    for value, constant in program.constants:
        values[value] = constant
    return values


def run_partition(step: RunPartition, values: list[Any]) -> None:
    """Runs a partition on its values, which it drops as early as can be."""
    inputs = [values[value] for value in step.inputs]
    for value in step.frees:
        values[value] = None
    outputs = step.call(inputs)
    for value, output in zip(step.outputs, outputs, strict=True):
        values[value] = output


def outputs_of(program: Program, values: list[Any]) -> list[Any]:
    """Returns the graph's outputs when all steps have run."""
    outputs = [None if value is None else values[value] for value in program.outputs]
    for position, literal in program.literals:
        outputs[position] = literal
    return outputs


def add_step_note(error: BaseException, step: Step) -> None:
    """Says in an error's notes in which step it was raised."""
    origin = f": {step.origin}" if step.origin else ""
    error.add_note(f"  in step {step.name} on slot {step.slot} ({step.device}){origin}")


def current_device(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Makes `device` current: Triton kernels and custom operations launch on the current one."""
    if device.type == "cpu":
        return _NOTHING
    manager: contextlib.AbstractContextManager[None] = torch.get_device_module(device).device(
        device
    )
    return manager
