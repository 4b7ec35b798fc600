"""Small models, each with one habit that makes placing a model on several devices hard."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.building import normal, seeded, token_ids
from tests.zoo.example import Example, Inputs, unique_names


class PlainTensorAttributes(nn.Module):
    """Tensors that are neither parameters nor buffers, one of them inside a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.scale = torch.linspace(0.5, 1.5, 16)
        self.tables = {"shift": torch.arange(16) / 16}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, 16] for x [batch, 16]."""
        out: torch.Tensor = self.second(self.first(x) * self.scale) + self.tables["shift"]
        return out


class LiftedConstants(nn.Module):
    """Constants written in forward: literals, `arange`, and a lookup table."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, 4] for x [batch, 4]."""
        hidden = self.first(x) * torch.tensor([1.0, -2.0, 3.0, 0.5], device=x.device)
        order = torch.tensor([2, 0, 3, 1], device=x.device)
        hidden = hidden[:, order] + torch.arange(4, device=x.device)
        out: torch.Tensor = self.second(hidden) / torch.tensor(2.0)
        return out


class GraphBreaks(nn.Module):
    """Stops Dynamo on purpose, and branches on a value that only the data tells."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, 16] for x [batch, 16]."""
        hidden = functional.silu(self.layers[0](x))
        torch._dynamo.graph_break()
        hidden = functional.silu(self.layers[1](hidden))
        branch = 2 if hidden.detach().mean().item() > 0 else 3
        out: torch.Tensor = self.layers[branch](hidden)
        return out


class DataDependentSize(nn.Module):
    """Selects rows by their values: how many come out, no shape tells."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [selected, 16] for x [batch, 16]."""
        hidden = self.first(x)
        rows = torch.nonzero(hidden.detach()[:, 0] > 0).squeeze(1)
        out: torch.Tensor = self.second(hidden[rows])
        return out


class TiedWeights(nn.Module):
    """One matrix as the embedding and as the head, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.middle = nn.Linear(32, 32)
        self.head = nn.Linear(32, 128, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return [batch, length, 128] for token numbers [batch, length]."""
        hidden = self.layer(self.middle(self.layer(self.embed(input_ids))))
        logits: torch.Tensor = self.head(hidden)
        return logits


@dataclasses.dataclass
class Batch:
    """Input of `NestedStructures`: a dataclass with a dict and a list of pairs in it."""

    features: dict[str, torch.Tensor]
    pairs: list[tuple[torch.Tensor, float]]


@dataclasses.dataclass
class Prediction:
    """Output of `NestedStructures`."""

    logits: torch.Tensor
    by_name: dict[str, list[torch.Tensor]]
    num_pairs: int


class NestedStructures(nn.Module):
    """Takes and returns dataclasses of dicts and lists, with numbers and text among the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 16)
        self.sparse = nn.Linear(4, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, batch: Batch, *, mode: str, bias: list[torch.Tensor | None]) -> Prediction:
        """Return the logits [batch, 3] and the hidden values by name."""
        dense = self.dense(batch.features["dense"])
        sparse = self.sparse(batch.features["sparse"])
        for value, weight in batch.pairs:
            sparse = sparse + weight * value
        hidden = dense * sparse if mode == "product" else dense + sparse
        for item in bias:
            hidden = hidden if item is None else hidden + item
        by_name = {"towers": [dense, sparse], "merged": [hidden]}
        return Prediction(self.head(torch.relu(hidden)), by_name, len(batch.pairs))


def _nested_inputs() -> Inputs:
    batch = Batch(
        {"dense": normal(3, 8), "sparse": normal(3, 4, seed=1)},
        [(normal(3, 16, seed=2), 0.5), (normal(16, seed=3), -1.0)],
    )
    return (batch,), {"mode": "product", "bias": [None, normal(16, seed=4)]}


class BufferUpdates(nn.Module):
    """Counts its calls and keeps a moving average in buffers that forward changes in place."""

    average: torch.Tensor
    num_calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.register_buffer("average", torch.zeros(16))
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, 16] for x [batch, 16]."""
        hidden = self.first(x)
        self.average.mul_(0.9).add_(hidden.detach().mean(dim=0), alpha=0.1)
        self.num_calls += 1
        out: torch.Tensor = self.second(hidden - self.average)
        return out


class InPlaceOnViews(nn.Module):
    """Writes into slices of its activations and returns views that share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two halves, [batch, 8] each, of one tensor, for x [batch, 16]."""
        hidden = torch.zeros_like(x)
        first = self.first(x)
        hidden[:, 8:] = first[:, :8]
        hidden[:, :8].add_(self.second(first[:, 8:]))
        left, right = hidden[:, :8], hidden[:, 8:]
        right.mul_(2.0)
        return left, right


class HardCodedDevices(nn.Module):
    """Names the CPU outright in forward, as code written for one device does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, 16] for x [batch, 16]."""
        hidden = self.first(x.to("cpu")) + torch.ones(16, device="cpu")
        mask = torch.zeros(hidden.shape).bernoulli_(1.0)
        out: torch.Tensor = self.second((hidden * mask).cpu())
        return out


def _rows() -> Inputs:
    return (normal(6, 16),), {}


EXAMPLES = unique_names(
    (
        Example(
            "plain_tensor_attributes", "behaviour", lambda: seeded(PlainTensorAttributes), _rows
        ),
        Example(
            "lifted_constants",
            "behaviour",
            lambda: seeded(LiftedConstants),
            lambda: ((normal(3, 4),), {}),
        ),
        Example("graph_breaks", "behaviour", lambda: seeded(GraphBreaks), _rows),
        Example(
            "data_dependent_size",
            "behaviour",
            lambda: seeded(DataDependentSize),
            lambda: ((normal(24, 16),), {}),
        ),
        Example(
            "tied_weights",
            "behaviour",
            lambda: seeded(TiedWeights),
            lambda: ((token_ids(),), {}),
        ),
        Example("nested_structures", "behaviour", lambda: seeded(NestedStructures), _nested_inputs),
        Example("buffer_updates", "behaviour", lambda: seeded(BufferUpdates), _rows),
        Example("in_place_on_views", "behaviour", lambda: seeded(InPlaceOnViews), _rows),
        Example("hard_coded_devices", "behaviour", lambda: seeded(HardCodedDevices), _rows),
    )
)
