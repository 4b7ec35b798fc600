"""Proof by execution: an operation in pieces gives what the whole operation gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxdevice.dims import VIEWED, Along, Dims, Label, OpDims, Strided, cut_of
from fxdevice.op_dims import local_call, op_dims
from tests.op_dims.stand_ins import STAND_INS

__all__ = ["call_node", "notation", "prove", "run", "shares_of", "whole_of"]


def call_node(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> fx.Node:
    """Return a node that calls `target`; its inputs and itself hold real values.

    A tensor that occurs twice among the arguments becomes one node.
    """
    graph = fx.Graph()
    made: dict[int, fx.Node] = {}

    def node_of(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in made:
            made[id(value)] = graph.placeholder(f"x{len(made)}")
            made[id(value)].meta["val"] = value
        return made[id(value)]

    def nodes_of(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(nodes_of(element) for element in value)
        return node_of(value)

    kwargs = kwargs or {}
    node = graph.call_function(
        target,
        tuple(nodes_of(arg) for arg in args),
        {key: nodes_of(arg) for key, arg in kwargs.items()},
    )
    node.meta["val"] = run(target, args, kwargs)
    return node


def run(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what an operator gives; one without a kernel for the CPU by its stand-in."""
    return STAND_INS.get(target, target)(*args, **kwargs)


def whole_of(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Return the value of a node, given those of its inputs."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    return run(node.target, args, kwargs)


def prove(
    node: fx.Node, values: Mapping[fx.Node, Any], whole: Any = None, *, is_quick: bool = False
) -> int:
    """Check every label of a node on real values.

    Args:
        node: The operation.
        values: Real value of every node that it reads.
        whole: What it gives, if known.
        is_quick: Try one way only to divide along each label.

    Returns:
        The number of labels.
    """
    dims = op_dims(node)
    if dims is None:
        return 0
    whole = whole_of(node, values) if whole is None else whole
    labels = labels_of(dims)
    for label in labels:
        all_shares = shares_of(sizes_of(node, dims, label), dims.units.get(label, 1))
        for shares in all_shares[:1] if is_quick else all_shares:
            _prove_shares(node, values, whole, dims, label, shares, is_copied=False)
        if not is_quick:
            _prove_shares(node, values, whole, dims, label, all_shares[0], is_copied=True)
            _prove_strided(node, values, whole, dims, label)
    if dims.is_view and not is_quick:
        _prove_viewed(node, values, whole, dims)
    return len(labels)


def _prove_strided(
    node: fx.Node, values: Mapping[fx.Node, Any], whole: Any, dims: OpDims, label: Label
) -> None:
    """Check pieces that are in several runs, where all dimensions of one label have one size."""
    (size, *others) = set(sizes_of(node, dims, label))
    if others or dims.order or label in dims.units:
        return
    for num_runs in (runs for runs in range(2, size) if size % runs == 0):
        for shares in shares_of([size // num_runs]):
            along = Strided(label, num_runs)
            _prove_shares(node, values, whole, dims, along, shares, is_copied=False)


def _prove_viewed(
    node: fx.Node, values: Mapping[fx.Node, Any], whole: Tensor, dims: OpDims
) -> None:
    """Check all pieces that a view can have, runs of one dimension or of several."""
    (read,) = dims.inputs
    shapes = (tuple(next(iter(values.values())).shape), tuple(whole.shape))
    for num_runs in range(1, whole.numel()):
        label = Strided(VIEWED, num_runs)
        cuts = [cut_of(dims.inputs[read], label, shape) for shape in shapes]
        sizes = [
            shape[cut.dim] // cut.num_runs
            for cut, shape in zip(cuts, shapes, strict=True)
            if cut is not None
        ]
        if len(sizes) == 2 and math.gcd(*sizes) > 1:
            _prove_shares(node, values, whole, dims, label, shares_of(sizes)[-1], is_copied=False)


def labels_of(dims: OpDims) -> list[int]:
    """Return all labels, in order."""
    found = {label for one in (*dims.inputs.values(), *dims.outputs) for label in one}
    return sorted(label for label in found if label is not None)


def sizes_of(node: fx.Node, dims: OpDims, label: int) -> list[int]:
    """Return the sizes of all dimensions with a label."""
    tensors = [
        (n.meta["val"], dims.inputs[n.name]) for n in node.all_input_nodes if n.name in dims.inputs
    ]
    value = node.meta["val"]
    results = value if isinstance(value, (tuple, list)) else (value,)
    tensors += [
        (one, d) for one, d in zip(results, dims.outputs, strict=True) if isinstance(one, Tensor)
    ]
    return [
        int(size)
        for tensor, one in tensors
        for size, found in zip(tensor.shape, one, strict=True)
        if found == label
    ]


def shares_of(sizes: Sequence[int], of: int = 1) -> list[tuple[int, ...]]:
    """Return shares, uneven ones if there are any, that cut all sizes in whole numbers of `of`."""
    unit = math.gcd(*sizes) // of
    assert unit > 1, f"no label stands on sizes {sizes}, which cannot be cut together"
    return [(1, unit - 1)] + ([(1, 2, unit - 3)] if unit > 3 else [])


def _prove_shares(
    node: fx.Node,
    values: Mapping[fx.Node, Any],
    whole: Any,
    dims: OpDims,
    label: Along,
    shares: tuple[int, ...],
    is_copied: bool,
) -> None:
    cut = {
        n: _cut(values[n], dims.inputs.get(n.name, ()), label, shares) for n in node.all_input_nodes
    }
    pieces = []
    for index, share in enumerate(shares):
        own = {n: parts[index] for n, parts in cut.items()}
        if is_copied:
            own = {n: v.contiguous() if isinstance(v, Tensor) else v for n, v in own.items()}
        pieces.append(_run_piece(node, own, label, share, sum(shares)))
    where = f"{node.format_node()} along {label} of {dims} in {shares}"
    if isinstance(whole, Tensor):
        whole, pieces = (whole,), [(piece,) for piece in pieces]
    for index, expected in enumerate(whole):
        parts = [piece[index] for piece in pieces]
        if isinstance(expected, Tensor) and _is_defined(node, expected):
            found = _combined(parts, dims, label, index, shares, tuple(expected.shape))
            _assert_same(found, expected, f"{where}, result {index}")


def _cut(value: Any, dims: Dims, label: Along, shares: tuple[int, ...]) -> list[Any]:
    cut = cut_of(dims, label, tuple(value.shape)) if isinstance(value, Tensor) else None
    if cut is None:
        return [value for _ in shares]
    size = value.shape[cut.dim] // cut.num_runs
    sizes = [size * share // sum(shares) for share in shares]
    runs = [torch.split(run, sizes, cut.dim) for run in value.split(size, cut.dim)]
    return [
        parts[0] if len(parts) == 1 else torch.cat(parts, cut.dim)
        for parts in zip(*runs, strict=True)
    ]


def _run_piece(node: fx.Node, own: Mapping[fx.Node, Any], label: Along, num: int, den: int) -> Any:
    graph = fx.Graph()
    inputs: dict[fx.Node, fx.Node] = {}
    found: dict[fx.Node, Any] = {}
    for read, value in own.items():
        inputs[read] = graph.placeholder(read.name)
        inputs[read].meta["val"] = found[inputs[read]] = value
    piece = local_call(graph, node, inputs, label, num, den)
    for made in graph.nodes:
        if made.op == "call_function":  # the piece, and copies of what it reads
            found[made] = whole_of(made, found)
    return found[piece]


def _is_defined(node: fx.Node, whole: Tensor) -> bool:
    """Return whether a result has content: random state has none that can be compared."""
    return "empty" not in str(node.target) and whole.numel() > 0 and whole.dtype != torch.uint64


def _combined(
    parts: list[Tensor],
    dims: OpDims,
    label: Along,
    index: int,
    shares: tuple[int, ...],
    shape: tuple[int, ...],
) -> Tensor:
    cut = cut_of(dims.outputs[index], label, shape)
    if cut is not None:
        runs = [part.chunk(cut.num_runs, cut.dim) for part in parts]
        return torch.cat([part for run in zip(*runs, strict=True) for part in run], cut.dim)
    label = label.label if isinstance(label, Strided) else label
    if label in dims.sums[index]:
        return torch.stack(parts).sum(0)
    assert label in dims.means[index]
    total = sum(shares)
    weighted = [part * (share / total) for part, share in zip(parts, shares, strict=True)]
    return torch.stack(weighted).sum(0)


def _assert_same(found: Tensor, expected: Tensor, where: str) -> None:
    assert found.shape == expected.shape, f"{where}: {found.shape}, expected {expected.shape}"
    if not (expected.is_floating_point() or expected.is_complex()):
        assert torch.equal(found, expected), where
        return
    assert found.dtype == expected.dtype, where
    finite = expected[torch.isfinite(expected)].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    bound = 1e-12 if expected.dtype in (torch.float64, torch.complex128) else 1e-5
    torch.testing.assert_close(
        found,
        expected,
        rtol=bound,
        atol=bound * (scale + 1e-3),
        equal_nan=True,
        msg=lambda m: f"{where}: {m}",
    )


def notation(dims: OpDims | None) -> str:
    """Return labels as einsum writes them, "." for none, renamed in the order of occurrence.

    A label that is missing in a result adds up there; "~" marks a result that is a mean.
    """
    if dims is None:
        return ""
    names: dict[int, str] = {}

    def text(one: Dims) -> str:
        return "".join(
            "." if label is None else names.setdefault(label, "abcdefgh"[len(names)])
            for label in one
        )

    inputs = ",".join(text(one) for one in dims.inputs.values())
    outputs = ",".join(
        ("~" if mean else "") + text(one)
        for one, mean in zip(dims.outputs, dims.means, strict=True)
    )
    return f"{inputs}->{outputs}"
