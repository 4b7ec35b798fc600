"""From a node to its `OpDims`: one rule by operator, and what holds for every one of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from fxdevice.dims import Dims, Label, OpDims
from fxdevice.op_dims import (
    attention,
    batch_norm,
    convolution,
    indexing,
    losses,
    normalization,
    products,
    rearrange,
    reductions,
    spatial,
    views,
)
from fxdevice.op_dims import pointwise as pointwise_rules
from fxdevice.op_dims.call import (
    Call,
    Labels,
    Rule,
    Shape,
    call_of,
    common_divisor,
    shape_of,
)
from fxdevice.op_kinds import is_mutating, is_operator

__all__ = ["NAMED", "OWN_DIMS", "RULES", "op_dims", "rule_of"]

_TABLES = (
    attention.TABLE,
    batch_norm.TABLE,
    convolution.TABLE,
    indexing.TABLE,
    losses.TABLE,
    normalization.TABLE,
    pointwise_rules.TABLE,
    products.TABLE,
    rearrange.TABLE,
    reductions.TABLE,
    spatial.TABLE,
    views.TABLE,
)
RULES: Mapping[Any, Rule] = MappingProxyType(
    {target: rule for table in _TABLES for target, rule in table.items()}
)


NAMED: Mapping[str, Rule] = MappingProxyType({**products.NAMED, **spatial.NAMED})
"""Rules of operators that other libraries add, by name."""

OWN_DIMS = "fxdevice_own_dims"
"""Metadata of a node that can be divided as its neighbours allow, not by the operator alone: its
`OpDims`."""


def op_dims(node: fx.Node) -> OpDims | None:
    """Returns along which dimensions an operation can be divided.

    Every label of the answer can be used: each tensor that the operation makes has it on a
    dimension, in `sums` or in `means`; it stands at most once on a tensor; and no size that it
    stands on is 1. An element of a tuple that is no tensor, or whose content nothing reads, has
    no labels, and all of them in `sums`. A tensor that is read without effect on the result (the
    random state of attention that drops nothing) is not among `inputs`: any piece of it will do.

    A dimension of n elements is divided in pieces of n * share / sum(shares), the same shares for
    every dimension with one label, and every piece must have a whole size, of whole units where the
    label has `units`. The sizes of tensors in
    a tuple follow: a label has them whole where it has those of the inputs whole.

    Args:
        node: Node of a normalized ATen graph, with fake values. Sizes may be symbols; a dimension
            of such a size has no label: the shares of one size seldom cut another one.

    Returns:
        The labels; None where the operation cannot be divided, or is unknown, random, mutating,
        or takes an element of a tuple (`getitem` has the labels of that element).
    """
    if node.op != "call_function" or not is_operator(node.target) or is_mutating(node):
        return None
    if OWN_DIMS in node.meta:
        own: OpDims = node.meta[OWN_DIMS]
        return own
    rule = rule_of(node.target)
    if rule is None or not _is_plain(node):
        return None
    call = call_of(node)
    labels = rule(call)
    return None if labels is None else _checked(call, labels)


@functools.cache
def rule_of(target: Any) -> Rule | None:
    """Returns the rule of an operator overload, None for an operator without one."""
    is_random = torch.Tag.nondeterministic_seeded in target.tags
    # Attention carries the tag, and draws nothing where nothing is dropped; its rules see to that.
    rules = attention.TABLE if is_random else RULES
    is_tagged = torch.Tag.pointwise in target.tags and target.namespace in ("aten", "prims")
    if target not in rules and is_tagged and not is_random:
        return pointwise_rules.pointwise
    found = rules.get(target) or rules.get(target.overloadpacket)
    return found or NAMED.get(target._schema.name)


def _is_plain(node: fx.Node) -> bool:
    """Returns whether all tensors are dense and no number is among the results."""
    value = node.meta.get("val")
    results = value if isinstance(value, (tuple, list)) else (value,)
    if any(isinstance(one, (torch.SymInt, torch.SymFloat, torch.SymBool)) for one in results):
        return False
    tensors = [one for one in results if isinstance(one, torch.Tensor)]
    read = [one.meta.get("val") for one in node.all_input_nodes]
    if any(isinstance(one, (tuple, list)) for one in read):
        return False
    tensors += [one for one in read if isinstance(one, torch.Tensor)]
    return isinstance(next(iter(results), None), (torch.Tensor, type(None))) and all(
        tensor.layout == torch.strided for tensor in tensors
    )


def _checked(call: Call, labels: Labels) -> OpDims | None:
    """Keeps the labels that `op_dims` promises."""
    roles = _roles(call, labels)
    used = {label for dims in _all_dims(labels) for label in dims if label is not None}
    used |= {label for found in labels.sums + labels.means for label in found}
    kept = {
        label
        for label in used
        if _is_consistent(roles, labels, label)
        and _covers_results(call, labels, label)
        and _has_sizes(call, labels, label)
    }
    if not kept:
        return None
    inputs = {node.name: _only(found[0], kept) for node, found in roles.items()}
    outputs, sums, means = [], [], []
    for index, value in enumerate(call.results):
        has_content = isinstance(value, torch.Tensor) and index not in labels.free
        dims = labels.outputs[index] if has_content else (None,) * len(call.result_shape(index))
        outputs.append(_only(dims, kept))
        added = _entry(labels.sums, index) if has_content else kept
        sums.append(frozenset(added & kept))
        averaged = _entry(labels.means, index) if has_content else frozenset()
        means.append(frozenset(averaged & kept))
    units = {label: unit for label, unit in labels.units.items() if label in kept}
    return OpDims(
        dict(inputs), tuple(outputs), tuple(sums), tuple(means), units, is_view=labels.is_view
    )


def _roles(call: Call, labels: Labels) -> dict[fx.Node, list[Dims]]:
    """Returns the labels of every tensor that is read, once for every place where it is."""
    tensors = call.tensors()
    roles: dict[fx.Node, list[Dims]] = {node: [] for node in tensors}
    for node, dims in labels.inputs:
        assert len(dims) == len(shape_of(node)), f"{call.node.target}: {dims} of {node}"
        roles[node].append(dims)
    for node, found in roles.items():
        num_unlabelled = tensors.count(node) - labels.unread.count(node) - len(found)
        found += [(None,) * len(shape_of(node))] * num_unlabelled
    return {node: found for node, found in roles.items() if found}


def _is_consistent(roles: Mapping[fx.Node, list[Dims]], labels: Labels, label: Label) -> bool:
    """Returns whether one piece of each input will do, and the label is once on each tensor."""
    for found in roles.values():
        if len({tuple(one == label for one in dims) for dims in found}) > 1:
            return False
    return all(dims.count(label) <= 1 for dims in _all_dims(labels))


def _covers_results(call: Call, labels: Labels, label: Label) -> bool:
    """Returns whether the pieces of every result make the whole."""
    return all(
        not isinstance(value, torch.Tensor)
        or index in labels.free
        or label in labels.outputs[index]
        or label in _entry(labels.sums, index)
        or label in _entry(labels.means, index)
        for index, value in enumerate(call.results)
    )


def _has_sizes(call: Call, labels: Labels, label: Label) -> bool:
    """Returns whether the dimensions with a label can be cut, see `op_dims`."""
    read = [
        size
        for node, dims in labels.inputs
        for size, found in zip(shape_of(node), dims, strict=True)
        if found == label
    ]
    made = list(_result_sizes(call, labels, label))
    sizes = read + made
    if not sizes or any(isinstance(size, int) and size < 2 for size in sizes):
        return False
    divisor = common_divisor(sizes)
    if divisor is None:
        return False
    if len(call.results) > 1:
        unit = common_divisor(read)
        if not unit or any(int(size) % unit for size in made):
            return False
    return divisor > 1


def _result_sizes(call: Call, labels: Labels, label: Label) -> Iterator[int | torch.SymInt]:
    for index, dims in enumerate(labels.outputs):
        shape: Shape = call.result_shape(index)
        if not isinstance(call.results[index], torch.Tensor) or index in labels.free:
            continue
        assert len(dims) == len(shape), f"{call.node.target}: {dims} of result {index}"
        yield from (size for size, found in zip(shape, dims, strict=True) if found == label)


def _all_dims(labels: Labels) -> list[Dims]:
    return [*(dims for _, dims in labels.inputs), *labels.outputs]


def _entry(found: tuple[frozenset[Label], ...], index: int) -> frozenset[Label]:
    return found[index] if index < len(found) else frozenset()


def _only(dims: Dims, kept: set[Label]) -> Dims:
    return tuple(label if label in kept else None for label in dims)
