"""Models whose features, heads and words are divided over simulated devices equal plain ones."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import fxdevice
from fxdevice import sim
from fxdevice.costs import estimate_costs as cost_table
from fxdevice.dag import NodeKind
from fxdevice.errors import PlacementError
from fxdevice.expand import expand
from fxdevice.op_dims import op_dims
from fxdevice.passes.estimate_costs import GraphInput, estimate_costs
from fxdevice.passes.normalize import normalize
from fxdevice.passes.prepare import prepare
from fxdevice.pieces import Role
from fxdevice.placement import PlacementProblem
from fxdevice.placers.tensor import place_tensor
from fxdevice.topology import Link, Slot, Topology
from tests.parity.compare import largest_gradient_difference, largest_relative_difference

TOLERANCE = 1e-12
WIDTH, NUM_WORDS = 16, 32
HEADS = 1
"""Label of the heads of an attention."""


class FeedForward(nn.Module):
    """[batch, WIDTH] -> [batch, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.relu(self.up(x)))
        return y


class Attention(nn.Module):
    def __init__(self, num_heads: int, *, is_fused: bool) -> None:
        super().__init__()
        self.num_heads, self.is_fused = num_heads, is_fused
        width = 3 * WIDTH if is_fused else WIDTH
        self.into = nn.ModuleList([nn.Linear(WIDTH, width) for _ in range(1 if is_fused else 3)])
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, words, width = x.shape
        parts = [layer(x) for layer in self.into]
        if self.is_fused:
            parts = list(parts[0].split(width, dim=2))
        split = (batch, words, self.num_heads, width // self.num_heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.out(y.transpose(1, 2).reshape(batch, words, width))
        return result


class Block(nn.Module):
    def __init__(self, num_heads: int, dropout: float, *, is_fused: bool) -> None:
        super().__init__()
        self.attention = Attention(num_heads, is_fused=is_fused)
        self.mlp, self.dropout = FeedForward(), nn.Dropout(dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norms[0](x)))
        y: Tensor = x + self.dropout(self.mlp(self.norms[1](x)))
        return y


class LanguageModel(nn.Module):
    """Words [batch, words] -> loss and logits; one table for the embedding and the head."""

    def __init__(self, num_heads: int = 4, dropout: float = 0.0, *, is_fused: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(NUM_WORDS, WIDTH)
        self.block = Block(num_heads, dropout, is_fused=is_fused)
        self.head = nn.Linear(WIDTH, NUM_WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(self.block(self.words(words)))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), words[:, 1:].flatten()), logits


def divided(model: nn.Module, num_slots: int) -> nn.Module:
    devices = [f"fxsim:{index}" for index in range(num_slots)]
    return fxdevice.compile(copy.deepcopy(model), devices=devices, strategy="tensor", inner="eager")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.mark.parametrize("num_slots", [2, 4])
def test_feed_forward(num_slots: int) -> None:
    plain = FeedForward().double()
    placed = divided(plain, num_slots)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        assert largest_relative_difference(placed(x), plain(x)) <= TOLERANCE
    for model in (plain, placed):
        model(x).square().mean().backward()
    assert largest_gradient_difference(placed, plain) <= TOLERANCE


CASES = {
    "heads on two slots": (4, 0.0, False, 2),
    "heads on four slots, dropout": (4, 0.2, False, 4),
    "one weight for q, k and v": (4, 0.0, True, 2),
    "more slots than heads": (2, 0.1, False, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_training_a_language_model(name: str) -> None:
    num_heads, dropout, is_fused, num_slots = CASES[name]
    plain = LanguageModel(num_heads, dropout, is_fused=is_fused).double()
    placed = divided(plain, num_slots)
    words = torch.randint(NUM_WORDS, (3, 6))
    results = []
    for model in (plain, placed):
        torch.manual_seed(1)
        loss, logits = model(words)
        loss.backward()
        results.append((loss, logits))
    assert largest_relative_difference(results[1], results[0]) <= TOLERANCE
    assert largest_gradient_difference(placed, plain) <= TOLERANCE
    used = {slot.index for graph in fxdevice.report(placed).graphs for slot in graph.slots}
    assert used == set(range(num_slots))


def test_one_word() -> None:
    plain = LanguageModel().double().eval()
    placed = divided(plain, 2)
    words = torch.tensor([[3]])
    with torch.no_grad():
        found, expected = placed(words)[1], plain(words)[1]
    assert largest_relative_difference(found, expected) <= TOLERANCE
    [graph] = fxdevice.report(placed).graphs
    computed = {slot.index: slot.num_operations for slot in graph.slots}
    # Norms too are computed on both slots.
    assert computed[1] >= 0.8 * computed[0]


def test_three_heads_on_two_slots() -> None:
    class ThreeHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.ModuleList([nn.Linear(12, 12) for _ in range(3)])
            self.out = nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            split = (*x.shape[:2], 3, 4)
            q, k, v = (layer(x).view(split).transpose(1, 2) for layer in self.into)
            y = F.scaled_dot_product_attention(q, k, v)
            result: Tensor = self.out(y.transpose(1, 2).flatten(2))
            return result

    plain = ThreeHeads().double().eval()
    placed = divided(plain, 2)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    with torch.no_grad():
        assert largest_relative_difference(placed(x), plain(x)) <= TOLERANCE


def test_model_that_cannot_be_divided() -> None:
    class Sorting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(0)

    placed = divided(Sorting(), 2)
    with pytest.raises(PlacementError, match="only 0% of the arithmetic"):
        placed(torch.randn(7))


def test_block_is_divided_as_megatron_divides_it() -> None:
    block = Block(4, 0.0, is_fused=False).eval()
    parameters = dict(block.named_parameters())

    def call(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        y: Tensor = functional_call(block, parameters, (x,))
        return y

    with torch.no_grad():
        module = make_fx(call, tracing_mode="fake")(torch.randn(2, 64, WIDTH), parameters)
    graph = prepare(normalize(module.graph), "tensor")
    names = [node.name for node in graph.find_nodes(op="placeholder")]
    inputs = {name: GraphInput(name, NodeKind.STATE) for name in names[1:]}
    dag = estimate_costs(graph, inputs, dims_of=op_dims)
    topology = Topology((Slot(0, "cuda:0"), Slot(1, "cuda:1")), Link(1e-6, 1e11))
    problem = PlacementProblem(dag, topology, cost_table(dag, topology))
    placement = place_tensor(problem)

    [attention] = [node for node in dag if "attention" in node.name and node.dims is not None]
    assert placement.layout_of[attention.name].label == HEADS
    products = [node for node in dag if node.name.endswith("_product")]
    assert len(products) == 6
    assert all(not placement.layout_of[node.name].copies for node in products)
    instances = expand(dag, placement, [dag.nodes[-1].name]).instances
    joined = {(one.origin, one.role) for one in instances if one.role in (Role.CONCAT, Role.SUM)}
    # The products behind the attention and at the end of the block.
    assert joined == {(products[3].name, Role.SUM), (products[5].name, Role.SUM)}
