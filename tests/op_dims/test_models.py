"""Every operation of real training graphs, in pieces, on the values that it has there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from functorch.compile import aot_module_simplified  # type: ignore[import-untyped]
from torch import Tensor, fx
from torch._functorch.partitioners import default_partition

from fxdevice.op_dims import op_dims
from fxdevice.op_kinds import is_getitem
from fxdevice.passes.normalize import normalize
from tests.op_dims.proof import prove
from tests.zoo import cast_floating, example

# What is not divided although one of its results has a dimension of more than one element: what
# makes or draws numbers, reads the storage, or slices the one dimension that there is.
UNDIVIDED = {
    "aten.arange.default",
    "aten.arange.start",
    "aten.as_strided.default",
    "aten.as_strided_scatter.default",
    "aten.bernoulli.p",
    "aten.lift_fresh_copy.default",
    "aten.native_dropout.default",
    "aten.new_empty_strided.default",
    "aten.slice.Tensor",
}


def joint_graphs(name: str) -> list[fx.GraphModule]:
    """Return the training graphs of a model of the zoo, in float64."""
    found: list[fx.GraphModule] = []

    def split(joint: fx.GraphModule, inputs: Any, **options: Any) -> Any:
        found.append(joint)
        return default_partition(joint, inputs, **options)

    def keep(module: fx.GraphModule, _: Any) -> Callable[..., Any]:
        return module

    def backend(module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        compilers = {"fw_compiler": keep, "bw_compiler": keep, "inference_compiler": keep}
        return aot_module_simplified(module, inputs, partition_fn=split, **compilers)

    entry = example(name)
    assert entry.float64
    args, kwargs = cast_floating(entry.inputs(), torch.float64)
    torch.compile(entry.build().double().train(), backend=backend)(*args, **kwargs)
    return found


class Prover(fx.Interpreter):
    """Runs a graph and proves each kind of call once."""

    def __init__(self, module: fx.GraphModule, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.num_labels = 0
        self._proved: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and op_dims(n) is not None:
            values = {read: self.env[read] for read in n.all_input_nodes}
            kind = str(
                [n.target, fx.map_arg((n.args, n.kwargs), lambda read: kind_of(values[read]))]
            )
            if kind not in self._proved:
                self._proved.add(kind)
                self.num_labels += prove(n, values, value, is_quick=True)
        return value


def kind_of(value: Any) -> Any:
    """Return what tells two calls apart: all but the numbers."""
    is_tensor = isinstance(value, Tensor)
    return f"{value.dtype} {value.shape} {value.stride()}" if is_tensor else value


def placeholder_values(graph: fx.Graph) -> list[Any]:
    """Return values of the right kinds; integers are 0 and 1, which every table has."""
    values = [node.meta["val"] for node in graph.find_nodes(op="placeholder")]
    return [
        value
        if not isinstance(value, Tensor)
        else 0.3 * torch.randn(value.shape, dtype=value.dtype)
        if value.is_floating_point()
        else torch.randint(0, 2, value.shape).to(value.dtype)
        for value in values
    ]


def has_dimension(node: fx.Node) -> bool:
    value = node.meta.get("val")
    tensors = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(one, Tensor) and max(one.shape, default=1) > 1 for one in tensors)


@pytest.mark.parametrize(
    "name",
    [
        "bert",
        "unet",
        "batch_norm_cnn_train_mode",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "llama",
                "t5",
                "vit",
                "timm_resnet",
                "timm_efficientnet",
                "swin",
                "whisper",
            )
        ),
    ],
)
def test_training_graph(name: str) -> None:
    graphs = joint_graphs(name)
    assert graphs
    for module in graphs:
        graph = normalize(module.graph)
        prover = Prover(module, graph)
        prover.run(*placeholder_values(graph))
        assert prover.num_labels > 50
        calls = [n for n in graph.nodes if n.op == "call_function" and not is_getitem(n)]
        calls = [node for node in calls if has_dimension(node)]
        undivided = [node for node in calls if op_dims(node) is None]
        assert {str(node.target) for node in undivided} <= UNDIVIDED, undivided
        assert len(undivided) <= 0.03 * len(calls)
