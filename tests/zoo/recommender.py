"""A click-probability model: embedding bags beside a dense tower, joined by products.

Source: Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation
Systems", 2019 (DLRM).
"""

import torch
from torch import nn

from tests.zoo.building import normal, seeded, token_ids
from tests.zoo.example import Example, Inputs, unique_names


class Recommender(nn.Module):
    """Four bags of sparse features and one vector of dense ones, multiplied pairwise."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(50, 16, mode="sum") for _ in range(4))
        self.bottom = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.top = nn.Sequential(nn.Linear(16 + 10, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(
        self, dense: torch.Tensor, indices: list[torch.Tensor], offsets: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return a click probability, [batch, 1].

        Args:
            dense: Dense features, [batch, 8].
            indices: For each of the four bags the row numbers of all samples, one after another.
            offsets: For each bag where each sample's row numbers start, [batch].
        """
        bottom = self.bottom(dense)
        looked_up = [
            bag(index, offset)
            for bag, index, offset in zip(self.bags, indices, offsets, strict=True)
        ]
        vectors = torch.stack([bottom, *looked_up], dim=1)
        products = vectors @ vectors.transpose(1, 2)
        row, column = torch.tril_indices(5, 5, offset=-1)
        crossed = products[:, row, column]
        return torch.sigmoid(self.top(torch.cat([bottom, crossed], dim=1)))


def _recommender_inputs() -> Inputs:
    indices = [token_ids(1, 9, seed=bag, low=0, high=50)[0] for bag in range(4)]
    offsets = [torch.tensor([0, 2, 5]) for _ in range(4)]
    return (normal(3, 8), indices, offsets), {}


EXAMPLES = unique_names(
    (Example("recommender", "recommender", lambda: seeded(Recommender), _recommender_inputs),)
)
