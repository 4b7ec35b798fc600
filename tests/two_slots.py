"""What the tests of compiled models share: small models, and what must not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

SLOTS = ("fxsim:0", "fxsim:1")
DEVICES = (torch.device("privateuseone", 0), torch.device("privateuseone", 1))
"""The same, as torch devices: "fxsim" is this type's name once the devices are enabled."""

HALVES = {"first": 0, "second": 1}
"""A device map for `TwoLayers`: one transfer between the slots."""


class TwoLayers(nn.Module):
    """Two linear layers: inputs `[batch, 4]`, results `[batch, 3]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(torch.relu(self.first(x)))
        return hidden


class Layers(nn.Module):
    """A chain of linear layers: inputs and results `[batch, width]`."""

    def __init__(self, width: int = 64, num_layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(num_layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def on_cpu(value: Any) -> Any:
    """Returns a copy of `value` with every tensor on the CPU, detached."""

    def copied(leaf: Any) -> Any:
        return leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf

    return tree_map(copied, value)


def assert_same(actual: Any, expected: Any) -> None:
    """Asserts equal values to the last few bits, wherever the tensors are."""
    torch.testing.assert_close(on_cpu(actual), on_cpu(expected), rtol=1e-6, atol=1e-7)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Returns the gradients of all parameters, each checked to be where its parameter is."""
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.device == parameter.device, name
        found[name] = on_cpu(parameter.grad)
    return found


@dataclass(frozen=True)
class Snapshot:
    """A module as it was: its tensors, where and what they were, and how it is called."""

    tensors: dict[str, tuple[int, torch.device, int, Tensor]]
    calls: dict[str, object]

    @classmethod
    def of(cls, module: nn.Module) -> Snapshot:
        tensors = {
            name: (id(tensor), tensor.device, tensor.data_ptr(), on_cpu(tensor))
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        }
        calls = {name: child._compiled_call_impl for name, child in module.named_modules()}
        return cls(tensors, calls)

    def assert_unchanged(self, module: nn.Module) -> None:
        now = Snapshot.of(module)
        assert now.calls == self.calls
        assert now.tensors.keys() == self.tensors.keys()
        for name, (*identity, value) in self.tensors.items():
            *identity_now, value_now = now.tensors[name]
            assert identity_now == identity, name
            assert torch.equal(value_now, value), name
