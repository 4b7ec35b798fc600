"""Parts a mean loss into a sum and a weight, each of which adds up over the pieces of a batch.

    loss, weight = nll_loss_forward(x, y, ..., mean)   becomes   total, weight = ... (..., sum)
                                                                 loss = total / weight

The weight counts what is not ignored, so that pieces with more ignored labels weigh less: the loss
is that of the whole batch, exactly.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from fxdevice.placed_graph import copied_graph

__all__ = ["separate_means"]

_aten = torch.ops.aten

_LOSSES = (_aten.nll_loss_forward.default, _aten.nll_loss2d_forward.default)
_REDUCTION = 3
_MEAN, _SUM = 1, 2


def separate_means(graph: fx.Graph) -> fx.Graph:
    """Returns a copy of `graph` without mean losses; names that stay do not change."""
    copy = copied_graph(graph)
    for node in list(copy.nodes):
        if node.target in _LOSSES and node.args[_REDUCTION] == _MEAN:
            node.args = (*node.args[:_REDUCTION], _SUM, *node.args[_REDUCTION + 1 :])
            for element in [user for user in node.users if user.args[1] == 0]:
                _divide(copy, node, element)
    return copy


def _divide(graph: fx.Graph, loss: fx.Node, element: fx.Node) -> None:
    """Divides the total, `element` of the tuple `loss`, by the weight."""
    with graph.inserting_after(element):
        weight = graph.call_function(operator.getitem, (loss, 1))
    with graph.inserting_after(weight):
        mean = graph.call_function(_aten.div.Tensor, (element, weight))
    element.replace_all_uses_with(mean, delete_user_cb=lambda user: user is not mean)
    weight.meta = {**element.meta, "val": loss.meta["val"][1]}
    mean.meta = dict(element.meta)
