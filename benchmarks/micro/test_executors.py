"""A step of a program, and a value that goes from worker to worker, without any work in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fxdevice.runtime.executors import make_executor
from fxdevice.runtime.program import Program, RunPartition
from fxdevice.runtime.waits import with_waits
from fxdevice.topology import Slot, Topology

CPU = torch.device("cpu")
NUM_STEPS = 64


def handed_on(args: list[Any]) -> list[Any]:
    """Returns what it is given: a partition without work."""
    outputs = list(args)
    args.clear()
    return outputs


def chain(num_slots: int) -> Program:
    """Returns a program whose every step reads what the step before it made, slot after slot."""
    steps = [
        RunPartition(
            name=f"step{index}",
            slot=index % num_slots,
            device=CPU,
            call=handed_on,
            inputs=(index,),
            outputs=(index + 1,),
            frees=(index,),
        )
        for index in range(NUM_STEPS)
    ]
    return Program(NUM_STEPS + 1, (0,), (), with_waits(steps), (NUM_STEPS,))


@pytest.mark.parametrize("num_slots", [1, 2, 4])
@pytest.mark.parametrize("at_once", [False, True], ids=["in turns", "at once"])
def test_chain(benchmark: Any, num_slots: int, at_once: bool) -> None:
    queue = None if at_once else 0
    topology = Topology(tuple(Slot(index, "cpu", queue=queue) for index in range(num_slots)))
    executor = make_executor(chain(num_slots), topology, is_first_alone=False)
    x = torch.randn(8)
    benchmark.extra_info["steps"] = NUM_STEPS
    (found,) = benchmark(lambda: executor([x]))
    assert found is x
