"""A transfer keeps everything of a value but its device and its memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice import sim
from fxdevice.transfer_op import (
    is_transfer,
    transfer_destination,
    transfer_node,
    transfer_source,
    transfer_tensor,
)

sim.enable(8)

BASE = torch.arange(24.0).reshape(4, 6)
VALUES = {
    "dense": BASE,
    "transposed": BASE.t(),
    "rows": BASE[1:3],
    "columns": BASE[:, 1:3],
    "expanded": BASE[:1].expand(5, 6),
    "scalar": BASE[2, 2],
    "empty": BASE[:0],
    "overlapping": BASE.reshape(-1).unfold(0, 7, 3),
    "conjugate": torch.complex(BASE, BASE + 1).conj(),
    "boolean": BASE > 3,
    "channels_last": torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("destination", ["cpu", "fxsim:1"])
def test_transfer_keeps_values_strides_and_owns_its_memory(name: str, destination: str) -> None:
    value = VALUES[name]
    moved = torch.ops.fxdevice.transfer(value, torch.device(destination))
    assert moved.device == torch.device(destination)
    assert moved.stride() == value.stride()
    assert torch.equal(moved.cpu(), value)
    if destination == "cpu" and value.numel():
        assert moved.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()


def test_an_expanded_value_is_sent_once() -> None:
    with sim.record() as recording:
        transfer_tensor(torch.ones(1, 8).expand(100, 8), torch.device("fxsim:0"))
    assert sum(copy.num_bytes for copy in recording.stats.copies.values()) == 8 * 4


@pytest.mark.parametrize("name", VALUES)
def test_fake_kernel_agrees_with_the_real_one(name: str) -> None:
    value = VALUES[name]
    torch.library.opcheck(torch.ops.fxdevice.transfer.default, (value, torch.device("cpu")))


def test_transfer_node_has_the_value_of_a_copy() -> None:
    def function(x: Tensor) -> Tensor:
        return x.t()[1:]

    graph = make_fx(function, tracing_mode="symbolic")(torch.randn(3, 4)).graph
    source = list(graph.nodes)[-2]
    with graph.inserting_after(source):
        node = transfer_node(graph, source, torch.device("cuda", 1), "moved")
    value, original = node.meta["val"], source.meta["val"]
    assert is_transfer(node)
    assert not is_transfer(source)
    assert transfer_source(node) is source
    assert transfer_destination(node) == torch.device("cuda", 1)
    assert (value.shape, value.stride()) == (original.shape, original.stride())
    assert value.device == original.device == torch.device("cpu")
    assert value is not original
