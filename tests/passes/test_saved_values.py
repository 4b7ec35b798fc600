"""What is predicted to be saved for backward, against what AOTAutograd's forward graph returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from fxdevice.cut import cut_joint
from fxdevice.dag import Dag, NodeKind
from fxdevice.passes.estimate_costs import estimate_costs
from fxdevice.passes.normalize import normalize
from fxdevice.passes.saved_values import cut_of
from tests.passes.traced import captured, traced
from tests.zoo import example


class Checkpointed(nn.Module):
    """Three feed-forward blocks, each recomputed in backward."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(16, 64) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(64, 16) for _ in range(3))
        self.dropout = dropout

    def block(self, index: int, x: Tensor) -> Tensor:
        hidden = F.gelu(self.up[index](F.layer_norm(x, (16,))))
        result: Tensor = x + F.dropout(self.down[index](hidden), self.dropout)
        return result

    def forward(self, x: Tensor) -> Tensor:
        for index in range(3):
            x = checkpoint(self.block, index, x, use_reentrant=False)
        return x


def storage_bytes(values: list[Any], apart_from: list[Any]) -> int:
    """Bytes of the storages behind `values` that are not behind the other values."""
    known = {v.untyped_storage().data_ptr() for v in apart_from if isinstance(v, Tensor)}
    storages = [v.untyped_storage() for v in values if isinstance(v, Tensor)]
    found = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(num_bytes for pointer, num_bytes in found.items() if pointer not in known)


def predicted_and_saved(
    model: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[list[Dag], list[int]]:
    """Returns the Dag of every joint graph, and the bytes that its forward graph saved."""
    dags: list[Dag] = []
    num_results: list[int] = []
    saved: list[int] = []

    def split(joint: fx.GraphModule, examples: Any, **options: Any) -> Any:
        graph = normalize(joint.graph)
        dags.append(estimate_costs(graph, {}))
        num_results.append(options["num_fwd_outputs"])
        return cut_joint(fx.GraphModule(joint, graph), examples, **options)

    def forward(module: fx.GraphModule, args: list[Any]) -> Any:
        given, results = list(args), module(*args)
        saved.append(storage_bytes(results[num_results[len(saved)] :], given))
        return results

    captured(model, inputs, keywords, split, forward)
    return dags, saved


def assert_predicted(model: nn.Module, *inputs: Any, **keywords: Any) -> list[Dag]:
    dags, saved = predicted_and_saved(model, inputs, keywords)
    assert [sum(node.saved_bytes for node in dag) for dag in dags] == saved
    assert saved
    assert max(saved) > 0
    return dags


@pytest.mark.parametrize(
    "name",
    ["batch_norm_cnn_train_mode", "in_place_on_views", "nn_multihead_attention", "tied_weights"],
)
def test_saved_bytes_of_models(name: str) -> None:
    entry = example(name)
    inputs, keywords = entry.inputs()
    assert_predicted(entry.build(), *inputs, **keywords)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_saved_bytes_of_recomputed_blocks(dropout: float) -> None:
    x = torch.randn(4, 16)
    (dag,) = assert_predicted(Checkpointed(dropout).train(), x)
    # The inputs of the second and third block, the noise of dropout (a byte an element), and
    # nothing else: the input of the first block is the caller's.
    num_masks = 3 if dropout else 0
    found = sum(node.saved_bytes for node in dag)
    assert found == (2 * 4 + num_masks) * x.numel()


def test_recomputed_operations_cost_twice() -> None:
    plain, recomputed = (
        predicted_and_saved(model, (torch.randn(4, 16),), {})[0][0]
        for model in (Plain(0.0), Checkpointed(0.0))
    )
    forward = [sum(n.flops for n in dag if not n.is_late) for dag in (plain, recomputed)]
    # All but the last addition of each block: nothing in backward needs its result.
    assert forward[1] == 2 * forward[0] - 3 * products_only_for_results(plain)


class Plain(Checkpointed):
    def forward(self, x: Tensor) -> Tensor:
        for index in range(3):
            x = self.block(index, x)
        return x


def products_only_for_results(dag: Dag) -> int:
    """FLOPs of one block whose result backward does not need: the second product, the addition."""
    downs = [n for n in dag if not n.is_late and n.shape == (4, 16) and "down" in n.source]
    return sum(node.flops for node in downs) // 3


def test_inference_graphs_save_nothing() -> None:
    graph = traced(lambda x, w: (x @ w).relu(), torch.ones(2, 3), torch.ones(3, 4))
    cut = cut_of(graph)
    assert not cut.late | cut.saved | cut.kept | cut.repeated


def test_backward_helpers_are_late() -> None:
    dag = predicted_and_saved(nn.Linear(4, 3), (torch.ones(2, 4, requires_grad=True),), {})[0][0]
    compute = [node for node in dag if node.kind is NodeKind.COMPUTE and node.output_bytes]
    helpers = [node for node in compute if node.is_late and not node.is_backward]
    # The transposed weight: it depends on no gradient.
    assert [(node.shape, node.has_work) for node in helpers] == [((3, 4), False)]
