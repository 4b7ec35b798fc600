"""Expressions of Dynamo lead to the names that the user knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from fxdevice.module_paths import ModulePaths, plain_path


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("L['self']", "L['self']"),
        ("L['self'].layers[0].weight", "L['self'].layers.0.weight"),
        ("L['self']._modules['layers']._modules['11']", "L['self'].layers.11"),
        ("L['self']._modules['a']._parameters['weight']", "L['self'].a.weight"),
        ("L['self']._modules['a']._buffers['mean']", "L['self'].a.mean"),
        ("L['self'].tables['shift']", "L['self'].tables.shift"),
        ("L['args'][0]", "L['args'].0"),
        ("G['model'].encoder", "G['model'].encoder"),
    ],
)
def test_plain_path(expression: str, expected: str) -> None:
    assert plain_path(expression) == expected


def test_the_frame_of_a_submodule() -> None:
    paths = ModulePaths(
        [
            ("L['self'].weight", "encoder.proj.weight"),
            ("L['self']._parameters['bias']", "encoder.proj.bias"),
        ]
    )
    assert paths.qualified("L['self']") == "encoder.proj"
    assert paths.qualified("L['self'].act") == "encoder.proj.act"
    assert paths.qualified("L['selfish'].act") == ""
    assert paths.qualified("G['other']") == ""


def test_the_frame_of_the_model_itself() -> None:
    paths = ModulePaths([("L['self'].layers[0].weight", "layers.0.weight")])
    assert paths.qualified("L['self'].layers[3].norm") == "layers.3.norm"
    assert paths.qualified("L['self']") == ""


def test_a_tied_weight_is_outvoted() -> None:
    """The head's weight is known under the embedding's name."""
    known = [
        ("L['self'].head.weight", "embed.weight"),
        ("L['self'].layers[0].weight", "layers.0.weight"),
        ("L['self'].layers[0].bias", "layers.0.bias"),
    ]
    for order in (known, known[::-1]):
        paths = ModulePaths(order)
        assert paths.qualified("L['self'].layers[1]") == "layers.1"


def test_nothing_is_known_without_state() -> None:
    assert ModulePaths().qualified("L['self'].first") == ""


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"proj": nn.Linear(3, 3)}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block["proj"](x)  # type: ignore[index, operator]
        return x


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower()


def test_expressions_of_this_pytorch() -> None:
    """The names that Dynamo writes on its nodes, in the frame of a submodule."""
    model = Outer()
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    known: list[tuple[str, str]] = []
    modules: set[str] = set()

    def backend(module: fx.GraphModule, inputs: list[Tensor]) -> fx.GraphModule:
        # Here, because PyTorch drops the sources when the backend returns.
        for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True):
            if isinstance(value, nn.Parameter):
                known.append((node.meta["grapharg"].source.name, names[id(value)]))
        for node in module.graph.nodes:
            modules.update(path for path, _ in node.meta.get("nn_module_stack", {}).values())
        return module

    torch.compile(model.tower, backend=backend, fullgraph=True)(torch.zeros(2, 3))
    assert len(known) == 4
    paths = ModulePaths(known)
    assert {paths.qualified(path) for path in modules} == {
        "tower.blocks.0.proj",
        "tower.blocks.1.proj",
    }
