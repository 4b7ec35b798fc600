"""Inner compilers: which one an option means, and that each computes the partition."""

from __future__ import annotations

import copy
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._inductor.utils import parallel_num_threads
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice import CompileOptionError, sim
from fxdevice.runtime import inductor
from fxdevice.runtime.inner import make_inner
from fxdevice.tracing import unified_tracing

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def traced(
    function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, decompositions: Any = None
) -> tuple[fx.GraphModule, list[Any]]:
    """Returns a partition as the lowering makes it, traced on the CPU, and its inputs' fakes."""
    with unified_tracing(CPU):
        module = make_fx(function, decompositions, tracing_mode="fake")(*inputs)
    output = module.graph.output_node()
    (values,) = output.args
    assert isinstance(values, (tuple, list))
    output.args = (tuple(values),)
    output.meta["val"] = tuple(v.meta["val"] for v in values)  # type: ignore[union-attr]
    module.recompile()
    return module, [n.meta["val"] for n in module.graph.find_nodes(op="placeholder")]


def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    hidden = (x @ y).relu()
    return hidden + torch.arange(3.0), hidden.sum(0).view(1, 3).t()


def inputs(device: torch.device = CPU) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 3, generator=generator).to(device) for _ in range(2)]


@pytest.mark.parametrize("inner", ["eager", "aot_eager", "inductor", "callable"])
def test_every_inner_compiler_computes_the_partition(inner: str) -> None:
    def backend(module: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        assert [tuple(example.shape) for example in examples] == [(3, 3), (3, 3)]
        return module.forward

    compiler = make_inner(backend if inner == "callable" else inner, CPU)
    assert compiler.name == ("backend" if inner == "callable" else inner)
    module, fakes = traced(function, *inputs(), decompositions=compiler.decompositions)
    call = compiler(module, fakes, CPU)
    outputs = call(list(inputs()))
    torch.testing.assert_close(list(outputs), list(function(*inputs())))
    assert outputs[1].stride() == function(*inputs())[1].stride()


def test_strides_of_what_inductor_returns_are_the_traced_ones() -> None:
    """Other partitions were traced with them."""

    def transposes(x: Tensor) -> tuple[Tensor, ...]:
        return (x.t() * 2).expand(2, 3, 3)[0], (x + 1).t()

    compiler = make_inner("inductor", CPU)
    x = torch.randn(3, 3)
    module, fakes = traced(transposes, x, decompositions=compiler.decompositions)
    expected = [value.stride() for value in module.graph.output_node().meta["val"]]
    outputs = compiler(module, fakes, CPU)([x])
    assert [output.stride() for output in outputs] == expected


@pytest.mark.parametrize("inner", ["eager", "aot_eager", "callable"])
def test_partitions_of_another_device_than_the_traced_one(inner: str) -> None:
    device = torch.device("fxsim:1")
    seen: list[torch.device] = []

    def backend(module: fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Any]:
        seen.extend(example.device for example in examples)
        seen.extend(n.meta["val"].device for n in module.graph.nodes if n.op == "call_function")
        return module.forward

    def without_creation(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return ((x @ y).relu(),)

    module, fakes = traced(without_creation, *inputs(device))
    assert {fake.device for fake in fakes} == {CPU}
    compiler = make_inner(backend if inner == "callable" else inner, device)
    (output,) = compiler(module, fakes, device)(inputs(device))
    assert output.device == device
    torch.testing.assert_close(output.cpu(), without_creation(*inputs())[0])
    # The compiler is told the partition's own device.
    assert set(seen) == ({device} if inner == "callable" else set())


def test_views_run_as_reshapes_where_strides_differ() -> None:
    module, fakes = traced(lambda x: (x.view(9) * 2,), torch.randn(3, 3))
    call = make_inner("eager", CPU)(module, fakes, CPU)
    other_strides = torch.randn(3, 3).t()
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        other_strides.view(9)
    (output,) = call([other_strides])
    assert torch.equal(output, other_strides.reshape(9) * 2)


def test_a_partition_takes_its_inputs_from_the_list() -> None:
    module, fakes = traced(lambda x: (x * 2,), torch.ones(3))
    args = [torch.ones(3)]
    make_inner("eager", CPU)(copy.deepcopy(module), fakes, CPU)(args)
    assert args == []


def test_a_backend_may_return_one_value_alone() -> None:
    module, fakes = traced(lambda x: (x * 2,), torch.ones(3))
    compiler = make_inner(lambda module, examples: lambda x: x * 2, CPU)
    outputs = compiler(module, fakes, CPU)([torch.ones(3)])
    assert [output.tolist() for output in outputs] == [[2.0, 2.0, 2.0]]


def many_rounds(x: Tensor) -> tuple[Tensor, ...]:
    """One kernel that takes long: a sine of a sine of a sine, with nothing to share."""
    for _ in range(40):
        x = x.sin() + 1
    return (x,)


def num_turns_during(call: Callable[[], object]) -> int:
    """Returns how often another thread of Python, which sleeps in between, runs in a call."""
    num_turns = 0
    started, stop = threading.Event(), threading.Event()

    def take_turns() -> None:
        nonlocal num_turns
        while not stop.is_set():
            num_turns += 1
            started.set()
            time.sleep(0.001)

    interval = sys.getswitchinterval()
    # So long a thread waits before it asks another one for the GIL: never, in this test.
    sys.setswitchinterval(100)
    other = threading.Thread(target=take_turns)
    try:
        other.start()
        started.wait()
        before = num_turns
        call()
        return num_turns - before
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(interval)


def test_partitions_that_run_at_once_release_the_gil_and_give_the_same_results() -> None:
    x = torch.randn(2_000_000)
    plain = make_inner("inductor", CPU)
    at_once = plain.at_once(threads=1)
    assert (at_once.name, at_once.decompositions) == (plain.name, plain.decompositions)
    num_turns = []
    for compiler in (plain, at_once):
        module, fakes = traced(many_rounds, x, decompositions=plain.decompositions)
        call = compiler(module, fakes, CPU)
        torch.testing.assert_close(list(call([x])), list(many_rounds(x)))
        num_turns.append(num_turns_during(lambda call=call: call([x])))  # type: ignore[misc]
    assert num_turns[0] <= 1
    assert num_turns[1] > 5


@pytest.mark.parametrize("threads", [1, 3])
def test_a_partition_is_compiled_for_a_number_of_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    compile_partition = inductor.compile_partition

    def watched(module: fx.GraphModule, fakes: Sequence[Any]) -> Any:
        seen.append(parallel_num_threads())
        return compile_partition(module, fakes)

    monkeypatch.setattr(inductor, "compile_partition", watched)
    compiler = make_inner("inductor", CPU)
    module, fakes = traced(function, *inputs(), decompositions=compiler.decompositions)
    call = compiler.at_once(threads=threads, releases_gil=False)(module, fakes, CPU)
    torch.testing.assert_close(list(call(inputs())), list(function(*inputs())))
    assert seen == [threads]
    # What is compiled after it is as ever.
    compiler(*traced(function, *inputs(), decompositions=compiler.decompositions), CPU)
    assert seen[1:] == [torch.get_num_threads()]


def test_other_compilers_run_at_once_as_they_are() -> None:
    module, fakes = traced(function, *inputs())
    call = make_inner("eager", CPU).at_once(threads=1)(module, fakes, CPU)
    torch.testing.assert_close(list(call(inputs())), list(function(*inputs())))


def test_default_on_the_cpu_is_inductor() -> None:
    compiler = make_inner(None, CPU)
    assert compiler.name == "inductor"
    assert compiler.decompositions


def test_default_without_inductor_is_eager_with_a_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="fxdevice"):
        compiler = make_inner(None, torch.device("fxsim:0"))
    assert compiler.name == "eager"
    assert compiler.decompositions is None
    assert len(caplog.records) == 1
    assert "inductor has no support for device type 'fxsim'" in caplog.text


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("inductor", "no support for device type 'fxsim'.*Use 'eager'"),
        ("no_such", "unknown inner compiler 'no_such'.*'aot_eager'"),
        ("fxdevice", "would place a partition again"),
    ],
)
def test_unusable_inner_compilers_are_refused(inner: str, words: str) -> None:
    with pytest.raises(CompileOptionError, match=words):
        make_inner(inner, torch.device("fxsim:0"))


def test_inductor_without_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert inductor.missing_for(CPU) == "inductor needs a C++ compiler for the CPU and found none"
    with pytest.raises(CompileOptionError, match=r"needs a C\+\+ compiler"):
        make_inner("inductor", CPU)
    monkeypatch.undo()
    assert inductor.missing_for(CPU) is None


def test_what_inductor_says_about_devices_that_are_not_here() -> None:
    found = inductor.missing_for(torch.device("cuda:0"))
    assert torch.cuda.is_available() or found is not None


def written_out(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    scores = torch.softmax(query @ key.transpose(-2, -1) / 4.0, -1)
    return (scores @ value + 1.0 - 1.0,)


def with_dropout(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    scores = torch.softmax(query @ key.transpose(-2, -1) / 4.0, -1)
    return (torch.nn.functional.dropout(scores, 0.5) @ value,)


def test_attention_that_is_written_out_becomes_one_operation() -> None:
    compiler = make_inner("inductor", CPU)
    args = [torch.randn(2, 4, 8, 16) for _ in range(3)]
    module, fakes = traced(written_out, *args, decompositions=compiler.decompositions)
    before = str(module.graph)
    found = compiler.simplified(module)
    assert str(module.graph) == before
    assert "scaled_dot_product" in str(found.graph)
    assert all("val" in node.meta for node in found.graph.nodes if node.op != "output")
    found.graph.output_node().meta["val"] = module.graph.output_node().meta["val"]
    torch.testing.assert_close(list(compiler(found, fakes, CPU)(list(args))), [*written_out(*args)])


def test_draws_stay_as_they_are() -> None:
    compiler = make_inner("inductor", CPU)
    args = [torch.randn(2, 4, 8, 16) for _ in range(3)]
    module, _ = traced(with_dropout, *args, decompositions=compiler.decompositions)
    assert "scaled_dot_product" not in str(compiler.simplified(module).graph)


def test_other_compilers_take_a_graph_as_it_is() -> None:
    module, _ = traced(function, *inputs())
    assert make_inner("eager", CPU).simplified(module) is module
