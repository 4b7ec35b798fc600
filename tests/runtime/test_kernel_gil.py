"""Kernels without the GIL: for what is compiled inside, and for nothing else."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.codecache import CppPythonBindingsCodeCache

from fxdevice.runtime.inner import make_inner
from fxdevice.runtime.kernel_gil import kernels_release_gil
from tests.runtime.test_inner import num_turns_during, traced

CPU = torch.device("cpu")


def templates() -> tuple[Any, Any]:
    cache: Any = CppPythonBindingsCodeCache
    return cache.extra_parse_arg, cache.call_entry_function


def slow(x: Tensor) -> tuple[Tensor]:
    for _ in range(60):
        x = (x * 0.99).sin() + 0.25
    return (x,)


def test_a_kernel_of_the_same_text_is_not_taken_for_one_that_holds_the_gil() -> None:
    x = torch.randn(1_000_000)
    compiler = make_inner("inductor", CPU)
    threads = torch.get_num_threads()
    num_turns = []
    for releases in (False, True, False):
        module, fakes = traced(slow, x, decompositions=compiler.decompositions)
        same_threads = compiler.at_once(threads=threads, releases_gil=releases)
        call = same_threads(module, fakes, CPU)
        torch.testing.assert_close(list(call([x])), list(slow(x)))
        num_turns.append(num_turns_during(lambda call=call: call([x])))  # type: ignore[misc]
    assert num_turns[0] <= 1
    assert num_turns[1] > 5
    assert num_turns[2] <= 1


def test_an_error_in_a_kernel_takes_the_gil_back() -> None:
    def pick(table: Tensor, index: Tensor) -> tuple[Tensor]:
        return (table[index] * 2,)

    table, good = torch.randn(8, 4), torch.tensor([1, 7])
    compiler = make_inner("inductor", CPU)
    module, fakes = traced(pick, table, good, decompositions=compiler.decompositions)
    call = compiler.at_once(threads=1)(module, fakes, CPU)
    with pytest.raises(RuntimeError, match="index out of bounds"):
        call([table, torch.tensor([1, 8])])
    torch.testing.assert_close(list(call([table, good])), list(pick(table, good)))


def test_the_binding_is_as_before_when_the_last_thread_is_done() -> None:
    before = templates()
    inside, done = threading.Event(), threading.Event()

    def compile_meanwhile() -> None:
        with kernels_release_gil():
            inside.set()
            done.wait()

    other = threading.Thread(target=compile_meanwhile)
    with kernels_release_gil():
        changed = templates()
        other.start()
        inside.wait()
    assert templates() == changed != before
    done.set()
    other.join()
    assert templates() == before
    with pytest.raises(ZeroDivisionError), kernels_release_gil():
        _ = 1 // 0
    assert templates() == before
