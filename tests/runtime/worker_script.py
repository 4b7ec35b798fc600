"""Run as a program: uses workers in ways that a process does once. Prints what it found as JSON.

With the argument "exit", ends while a call runs on a daemon thread.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch

from fxdevice.runtime.host_executor import HostExecutor
from tests.runtime.random_programs import program_of, step


def executor_of(function: Any) -> HostExecutor:
    """Returns two steps, of which the second reads what the first made."""
    steps = [step(i, i, function, [i], [i + 1]) for i in range(2)]
    return HostExecutor(program_of(steps, 1, [2], 3), 2)


def add_one(args: list[Any]) -> Sequence[Any]:
    return [args[0] + 1]


def num_threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def threads_and_cores() -> dict[str, object]:
    seen: list[tuple[int, list[int]]] = []

    def look(args: list[Any]) -> Sequence[Any]:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        seen.append((torch.get_num_threads(), cores))
        return add_one(args)

    torch.set_num_threads(64)
    before = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    executor_of(look)([torch.zeros(2)])
    after = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "of_workers": [number for number, _ in seen],
        "cores_of_workers": [cores for _, cores in seen],
        "of_caller": torch.get_num_threads(),
        "of_a_new_thread": num_threads_of_a_new_thread(),
        "cores": [before, after],
    }


def results_after_fork() -> list[float]:
    """Returns the result of the child, then that of the parent."""
    executor = executor_of(add_one)
    executor([torch.zeros(2)])
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        value = executor([torch.ones(2)])[0].sum().item()
        os.write(there, str(value).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as stream:
        found = [float(stream.read() or "nan")]
    os.waitpid(child, 0)
    return [*found, executor([torch.full((2,), 2.0)])[0].sum().item()]


def end_while_a_call_runs() -> None:
    """Returns when workers are in the middle of long products, called again and again."""
    has_begun = threading.Event()
    large = torch.ones(600, 600)

    def work(args: list[Any]) -> Sequence[Any]:
        has_begun.set()
        for _ in range(20):
            large @ large
        return add_one(args)

    def call_on() -> None:
        executor = executor_of(work)
        while True:
            executor([torch.zeros(2)])

    for _ in range(2):
        threading.Thread(target=call_on, daemon=True).start()
    has_begun.wait(60)


if __name__ == "__main__":
    if sys.argv[1:] == ["exit"]:
        end_while_a_call_runs()
    else:
        print(json.dumps({**threads_and_cores(), "after_fork": results_after_fork()}))
