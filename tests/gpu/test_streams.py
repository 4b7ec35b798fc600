"""What real devices show of streams: the host waits for nothing, copies go on beside kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import fxdevice
from fxdevice.runtime.program import Program, RunPartition, Step, Transfer
from fxdevice.runtime.stream_executor import StreamExecutor

pytestmark = pytest.mark.gpu

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def profiled(work: Callable[[], object]) -> list[Any]:
    """Returns the events of a profile; all devices are idle before and after."""
    for device in (FIRST, SECOND):
        torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        kept = work()
        del kept
    return list(found.events() or ())


def waits_of_host(events: Sequence[Any]) -> list[str]:
    """Returns the host's waits, but for those that the profiler itself makes when it ends."""
    named = [event for event in events if event.name in WAITS]
    issued = [e.time_range.end for e in events if e.name.startswith(("cudaLaunch", "cudaMemcpy"))]
    return [event.name for event in named if event.time_range.start < max(issued)]


@pytest.mark.parametrize("strategy", ["data", "pipeline", "tensor"])
@pytest.mark.parametrize("training", [False, True])
def test_the_host_waits_for_nothing_in_a_steady_state(strategy: str, training: bool) -> None:
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(4)))
    placed = fxdevice.compile(model, [FIRST, SECOND], inner="eager", strategy=strategy)
    x = torch.randn(64, 256, device=FIRST)

    def step() -> Tensor:
        with torch.set_grad_enabled(training):
            out: Tensor = placed(x).sum()
            if training:
                out.backward()
        return out

    for _ in range(3):
        step()
    events = profiled(lambda: [step() for _ in range(3)])
    assert any(event.name.startswith("cudaLaunch") for event in events)
    assert waits_of_host(events) == []


def test_copies_go_on_beside_kernels() -> None:
    """Two micro-batches: while the first is sent, the second is computed."""

    def multiply(args: list[Any]) -> Sequence[Tensor]:
        value = args.pop()
        for _ in range(8):
            value = value @ value
        return [value]

    steps: list[Step] = []
    for batch in range(4):
        made = 4 + 3 * batch
        steps += [
            RunPartition(f"a{batch}", 0, FIRST, multiply, (batch,), (made,)),
            Transfer(f"h{batch}", made, made + 1, 1, SECOND),
            RunPartition(f"b{batch}", 1, SECOND, multiply, (made + 1,), (made + 2,)),
        ]
    outputs = tuple(6 + 3 * batch for batch in range(4))
    executor = StreamExecutor(Program(16, (0, 1, 2, 3), (), tuple(steps), outputs), 2)
    x = torch.eye(2048, device=FIRST)

    def run() -> list[Any]:
        return executor([x] * 4)

    assert all(torch.equal(output.cpu(), x.cpu()) for output in run())
    on_device = [e for e in profiled(run) if e.device_type.name == "CUDA"]
    copies = [e.time_range for e in on_device if "memcpy" in e.name.lower()]
    kernels = [e.time_range for e in on_device if "gemm" in e.name.lower()]
    assert copies
    assert kernels
    assert any(c.start < k.end and k.start < c.end for c in copies for k in kernels)


def test_results_on_the_host_are_ready() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))
    placed = fxdevice.compile(model, [FIRST, SECOND], inner="eager", strategy="pipeline")
    x = torch.randn(256, 512)
    plain = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))
    plain.load_state_dict({name: value.cpu() for name, value in model.state_dict().items()})
    with torch.no_grad():
        for _ in range(20):
            assert torch.allclose(placed(x), plain(x), atol=1e-4)


def test_the_callers_stream_is_respected() -> None:
    model = nn.Linear(2048, 2048)
    placed = fxdevice.compile(model, [FIRST, SECOND], inner="eager", strategy="tensor")
    side = torch.cuda.Stream(FIRST)
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(20):
            x = torch.randn(256, 2048, device=FIRST)
            torch.cuda._sleep(1_000_000)
            x = x * 2
            found = placed(x)
            wanted = nn.functional.linear(x, model.weight.to(FIRST), model.bias.to(FIRST))
            assert torch.allclose(found.to(FIRST), wanted, atol=1e-2)
